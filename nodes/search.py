"""Radial Settings Search: the best settings for a target, from the probe's measurements."""

from comfy_api.latest import io

from ..radial_core.measurements import Measurements
from ..radial_core.search import (
    Setting,
    all_settings,
    current_setting,
    largest_speedup,
    smallest_error,
)
from .comfyui.node_ui import picture_and_text
from .drawing.canvas import as_image
from .drawing.compare import draw_nothing
from .drawing.search import draw_search
from .inputs.checks import check_choice, check_number, short
from .inputs.settings import ADAPTIVE, AUTOMATIC, LISTS, RADIAL
from .probing.advice import AGING, describe
from .probing.preset_figures import preset_figures
from .probing.socket import MEASUREMENTS

FASTEST, MOST_EXACT = "largest speed-up", "smallest error"
LEAST_ERROR, MOST_ERROR = 0.001, 1.0
LEAST_SPEEDUP, MOST_SPEEDUP = 1.0, 20.0
LINK_BOTH = "For these lists, lists and budget must be linked to Radial Attention Patch too."
NOTHING = (
    "Nothing was measured, so the outputs select the model's own values. Radial Attention Compare "
    "says why; link its measurements to this node."
)


class RadialSettingsSearch(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="RadialSettingsSearch",
            display_name="Radial Settings Search",
            category="radial attention",
            description="Finds the decay, sink frames, dense blocks and kind of lists for an error "
            "or a speed-up, from what was measured on your own model and video. Link its outputs "
            "to Radial Attention Patch, with preset custom.",
            search_aliases=[
                "radial",
                "tune attention",
                "best settings",
                "decay",
                "quality against speed",
            ],
            inputs=[
                MEASUREMENTS.Input(
                    "measurements", tooltip="The measurements from Radial Attention Compare."
                ),
                io.Combo.Input(
                    "target",
                    options=[FASTEST, MOST_EXACT],
                    default=FASTEST,
                    tooltip="largest speed-up: the fastest settings whose error is at most error. "
                    "smallest error: the most exact settings whose speed-up is at least speedup.",
                ),
                io.Float.Input(
                    "error",
                    default=0.1,
                    min=LEAST_ERROR,
                    max=MOST_ERROR,
                    step=0.01,
                    round=0.001,
                    tooltip="For largest speed-up: the largest relative RMS error of the "
                    "attention's output over all blocks. 0.1 is a tenth of the output itself.",
                ),
                io.Float.Input(
                    "speedup",
                    default=1.5,
                    min=LEAST_SPEEDUP,
                    max=MOST_SPEEDUP,
                    step=0.1,
                    round=0.01,
                    tooltip="For smallest error: the smallest estimated speed-up of a radial step "
                    "over one with dense attention.",
                ),
            ],
            outputs=[
                io.Float.Output(
                    display_name="decay", tooltip="For decay of Radial Attention Patch."
                ),
                io.Int.Output(
                    display_name="sink_frames",
                    tooltip="For sink_frames of Radial Attention Patch.",
                ),
                io.Int.Output(
                    display_name="dense_blocks",
                    tooltip="For dense_blocks of Radial Attention Patch.",
                ),
                io.Image.Output(display_name="image", tooltip="The picture on this node."),
                io.String.Output(display_name="text", tooltip="The text on this node."),
                io.Combo.Output(
                    display_name="lists",
                    options=list(LISTS),
                    tooltip="For lists of Radial Attention Patch.",
                ),
                io.Float.Output(
                    display_name="budget",
                    tooltip="For budget of Radial Attention Patch: that of adaptive lists, else 1.",
                ),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, measurements, target, error, speedup) -> io.NodeOutput:
        check_choice("target", target, (FASTEST, MOST_EXACT))
        check_number("error", error, LEAST_ERROR, MOST_ERROR)
        check_number("speedup", speedup, LEAST_SPEEDUP, MOST_SPEEDUP)
        if measurements is None:
            picture, text = draw_nothing("Nothing measured: see below."), NOTHING
            values = [AUTOMATIC[name] for name in ("decay", "sink_frames", "dense_blocks")]
            values[0], lists, budget = float(values[0]), RADIAL, 1.0
        elif isinstance(measurements, Measurements):
            limits = {"error": error} if target == FASTEST else {"speedup": speedup}
            chosen, picture, text = search(measurements, **limits)
            values = [chosen.decay, chosen.sink_frames, chosen.dense_blocks]
            lists = RADIAL if chosen.budget is None else ADAPTIVE
            budget = 1.0 if chosen.budget is None else chosen.budget
        else:
            raise ValueError(
                f"measurements must come from Radial Attention Compare, got {short(measurements)}"
            )
        image = as_image(picture)
        ui = picture_and_text(image, text, cls)
        return io.NodeOutput(*values, image, text, lists, budget, ui=ui)


def search(m: Measurements, error: float | None = None, speedup: float | None = None):
    """The chosen Setting, a picture and a text, for one of the two limits."""
    settings, now = all_settings(m), current_setting(m)
    if error is not None:
        chosen, reached = largest_speedup(settings, error)
        asked = f"an error of at most {error:g}"
        verdict = (
            f"The fastest with {asked}"
            if reached
            else f"None of them has {asked}. The most exact of them"
        )
    else:
        chosen, reached = smallest_error(settings, speedup)
        asked = f"at least {speedup:g} times as fast"
        verdict = (
            f"The most exact that is {asked}"
            if reached
            else f"None of them is {asked}. The fastest of them"
        )
    lines = [
        f"{verdict}: {describe(chosen)}: {_figures(chosen)}.",
        f"Now ({describe(now)}; the settings of {m.settings_of}): {_figures(now)}.",
        f"Out of {len(settings):,} settings. Errors are measured; speed-ups are estimated over "
        "dense attention by the fastest exact kernel.",
    ]
    if chosen.budget is not None:
        lines[1:1] = [AGING, LINK_BOTH]
    if of_presets := preset_figures(m):
        lines += of_presets if AGING in lines else [*of_presets, AGING]
    return chosen, draw_search(settings, chosen, now, error, speedup), "\n".join(lines)


def _figures(each: Setting) -> str:
    return (
        f"error {each.error:.2g}, speed-up of a step {each.speedup:.2g}x, "
        f"of its attention {each.attention_speedup:.2g}x"
    )
