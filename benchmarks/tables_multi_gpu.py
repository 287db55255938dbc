"""Tables of several GPUs: what links allow, computed; and passes, measured."""

from end_to_end_cases import CASES, Case
from tables_format import NOT_MEASURED, RESULTS, VIDEOS, by_name, markdown, number, results, times

COMPUTED = ("wan2.1-14b-69f-768p", "hunyuan-117f-768p")
PASSES_OF = "end_to_end-h200"
WAYS = {
    "dense_fastest": "dense",
    "radial": "radial",
    "dense_8bit": "dense, 8 bit",
    "radial_8bit": "radial, 8 bit",
    "radial_adaptive": "adaptive lists",
    "adaptive_067": "adaptive lists, budget 0.67",
}
CARDS = (2, 4, 8)
# Bytes a second, each way. NVLink: what a probe got on two H200s, with the copies before and after:
# three exchanges of 75,600 tokens x 40 heads, 0.58 GB, in 3.8 ms.
LINKS = {"PCIe 4": 25e9, "PCIe 5": 50e9, "NVLink": 150e9}
BYTES = 2  # of a bfloat16
EXCHANGED = 4  # q, k, v and the output


def bytes_sent(case: Case, cards: int) -> float:
    """Bytes that each card sends in a pass; it gets as many.

    In each layer a card has its share of the tokens, and sends what is for the other cards' heads.
    Text that is in the same attention is small and left out.
    """
    own_tokens = case.model.tokens(case.latent) / cards
    settings = case.model.settings
    width = settings.get("dim") or settings["hidden_size"]
    layers = sum(case.model.blocks.values())
    return layers * EXCHANGED * (1 - 1 / cards) * own_tokens * width * BYTES


def multi_gpu_expected() -> str:
    """One card's pass divided by the cards, and the exchange, which waits for nothing else."""
    measured, rows = by_name(PASSES_OF), []
    for name in COMPUTED:
        for way in ("dense_fastest", "radial"):
            alone = measured[name][f"{way}_s"]
            for cards in CARDS:
                sent = bytes_sent(CASES[name], cards)
                passes = [alone / cards + sent / link for link in LINKS.values()]
                cells = [f"{number(s)} s, {times(alone, s)}" for s in passes]
                title = f"{VIDEOS[name]}, {WAYS[way]}"
                rows.append([title, number(alone), str(cards), number(sent / 1e9), *cells])
    return markdown(["one pass", "one GPU, s", "GPUs", "each sends, GB", *LINKS], rows)


def multi_gpu() -> str:
    """Passes on one GPU and on several, and the regions of the latter."""
    files = sorted(RESULTS.glob("multi_gpu-*.json"))
    rows = []
    for file in files:
        if not file.stem.endswith("-tiny"):
            rows += [_measured(case) for case in results(file.stem)["cases"]]
    if not rows:
        return NOT_MEASURED
    head = ["one pass", "GPUs", "one GPU, s", "all, s", "speed-up", "attention, s", "linear, s"]
    head += ["communication, s", "rest, s", "relative difference", "peak GiB: one", "each of all"]
    return markdown([*head, "host GiB of each process"], rows)


def _measured(case: dict) -> list[str]:
    alone, together = case["pass_s"]["1"], case["pass_s"][str(case["gpus"])]
    regions = case["regions"][str(case["gpus"])]
    peak = case["peak_gib"]
    return [
        f"{VIDEOS[case['video']]}, {WAYS[case['way']]}",
        str(case["gpus"]),
        *(number(alone), number(together), f"{case['speedup']:.2f}x"),
        *(number(regions[name]) for name in ("attention", "linear", "communication", "rest")),
        f"{case['relative_difference']:.1e}",
        *(_listed(peak[cards]) for cards in ("1", str(case["gpus"]))),
        _listed(case["host_gib"]),
    ]


def _listed(gib: list[float]) -> str:
    return ", ".join(map(number, gib))


TABLES = (multi_gpu_expected, multi_gpu)
