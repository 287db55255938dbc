"""The size at which stand-ins run a workflow: they show that it works, not how it looks."""

PATCHES = {"width": 8, "height": 4}
# More frames than any model was trained on, except for MiniMax H3, whose lengths are 17 n + 5.
MOST = {"steps": 8, "length": 201}
MOST_OF_NODE = {"MiniMaxH3ImageToVideo": {"length": 192}}
LARGE_PATCHES = ("Wan22ImageToVideoLatent", "MiniMaxH3ImageToVideo", "EmptyLTXVLatentVideo")
SWITCH = ("start_at_step", "end_at_step")


def stand_in_size(graph: dict, settings: dict) -> dict[str, int]:
    """The inputs of a graph to make smaller, "8.width" -> 128, except for those that the user set.

    Samplers that share a schedule still switch at the same share of it.
    """
    small = {}
    for node_id, node in graph.items():
        kind = node["class_type"]
        patch = 32 if kind in LARGE_PATCHES else 16  # pixels
        sides = {name: n * patch for name, n in PATCHES.items()}
        most = {**MOST, **MOST_OF_NODE.get(kind, {}), **sides}
        for name, n in most.items():
            holder, held = _holder(graph, node_id, name)
            value = graph[holder]["inputs"].get(held)
            if _exceeds(value, n) and not is_set(settings, holder, held):
                small[f"{holder}.{held}"] = n
                if name == "steps":
                    switches = _switches(node["inputs"], value, n)
                    unset = (name for name in switches if not is_set(settings, node_id, name))
                    small |= {f"{node_id}.{name}": switches[name] for name in unset}
    return small


def _switches(inputs: dict, steps: int, fewer: int) -> dict[str, int]:
    """The steps at which samplers switch, at the same share of fewer steps."""
    at = {name: inputs.get(name) for name in SWITCH}
    return {name: round(n * fewer / steps) for name, n in at.items() if _exceeds(steps, n)}


def _holder(graph: dict, node_id: str, name: str) -> tuple[str, str]:
    """The node and the input that hold a value: another's if it is linked to, say, PrimitiveInt."""
    value = graph[node_id]["inputs"].get(name)
    if isinstance(value, list) and "value" in graph[value[0]]["inputs"]:
        return value[0], "value"
    return node_id, name


def _exceeds(value, most) -> bool:
    numbers = (value, most)
    if not all(isinstance(n, int | float) and not isinstance(n, bool) for n in numbers):
        return False
    return value > most


def is_set(settings: dict, node_id: str, name: str) -> bool:
    """Whether settings, by input or by node and input, have an input of a node."""
    return name in settings or f"{node_id}.{name}" in settings
