"""The size at which stand-ins run a workflow: they show that it works, not how it looks."""

PATCHES = {"width": 8, "height": 4}
# More frames than any model was trained on, except for MiniMax H3, whose lengths are 17 n + 5.
MOST = {"steps": 8, "length": 201}
MOST_OF_NODE = {"MiniMaxH3ImageToVideo": {"length": 192}}
PIXELS_OF_A_PATCH = {"Wan22ImageToVideoLatent": 32, "MiniMaxH3ImageToVideo": 32}  # 16 for others
SWITCH = ("start_at_step", "end_at_step")


def stand_in_size(graph: dict, settings: dict) -> dict[str, int]:
    """The inputs of a graph to make smaller, "8.width" -> 128, except for those that the user set.

    Samplers that share a schedule still switch at the same share of it.
    """
    small = {}
    for node_id, node in graph.items():
        inputs = node["inputs"]
        kind = node["class_type"]
        patch = PIXELS_OF_A_PATCH.get(kind, 16)
        sides = {name: n * patch for name, n in PATCHES.items()}
        most = {**MOST, **MOST_OF_NODE.get(kind, {}), **sides}
        shrunk = {name: n for name, n in most.items() if _exceeds(inputs.get(name), n)}
        shrunk = {name: n for name, n in shrunk.items() if not _is_set(settings, node_id, name)}
        if "steps" in shrunk:
            steps = inputs["steps"]
            for name in SWITCH:
                at = inputs.get(name)
                if _exceeds(steps, at) and not _is_set(settings, node_id, name):
                    shrunk[name] = round(at * shrunk["steps"] / steps)
        small |= {f"{node_id}.{name}": n for name, n in shrunk.items()}
    return small


def _exceeds(value, most) -> bool:
    numbers = (value, most)
    if not all(isinstance(n, int | float) and not isinstance(n, bool) for n in numbers):
        return False
    return value > most


def _is_set(settings: dict, node_id: str, name: str) -> bool:
    return name in settings or f"{node_id}.{name}" in settings
