"""What the pictures of the lab share: colours, and the look of the axes."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from lab import record

# Okabe and Ito's colours, which colour-blind people can tell apart too.
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, RED, PURPLE, GREY = "#F0E442", "#0072B2", "#D55E00", "#CC79A7", "#888888"


def tidy(axes):
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def save(figure, name: str):
    path = record.RESULTS / f"{name}.png"
    figure.savefig(path, dpi=110)
    plt.close(figure)
    print(f"Written: {path}")
