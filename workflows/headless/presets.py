"""What the user sets counts: a patch node whose preset decides it becomes custom."""

from .graph import NODE, set_inputs
from .small import is_set

CUSTOM = "custom"
# What a preset decides, as in nodes/web/js/presets.js.
DECIDED = (
    "dense_steps",
    "dense_last_steps",
    "dense_blocks",
    "sink_frames",
    "decay",
    "lists",
    "budget",
)


def made_custom(graph: dict, settings: dict) -> dict[str, list[str]]:
    """The ids of the nodes to make custom, and which of their inputs the user set.

    Raises SystemExit if the user set both a preset and what it decides.
    """
    nodes = {}
    for node_id, node in set_inputs(graph, settings).items():
        inputs = node["inputs"]
        preset = inputs.get("preset", CUSTOM)
        if node["class_type"] != NODE or preset == CUSTOM or isinstance(preset, list):
            continue
        plain = [n for n in DECIDED if n in inputs and not isinstance(inputs[n], list)]
        chosen = [n for n in plain if is_set(settings, node_id, n)]
        if chosen and is_set(settings, node_id, "preset"):
            raise SystemExit(
                f"--set {chosen[0]}: the preset {preset} decides it on node {node_id}. Set its "
                "preset to custom, or leave one of the two out."
            )
        if chosen:
            nodes[node_id] = chosen
    return nodes
