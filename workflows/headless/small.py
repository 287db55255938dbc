"""The size at which stand-ins run a workflow: they show that it works, not how it looks."""

PATCHES = {"width": 8, "height": 4}
MOST = {"steps": 8, "length": 201}  # more frames than any model was trained on
SWITCH = ("start_at_step", "end_at_step")


def stand_in_size(graph: dict, settings: dict) -> dict[str, int]:
    """The inputs of a graph to make smaller, "8.width" -> 128, except for those that the user set.

    Samplers that share a schedule still switch at the same share of it.
    """
    small = {}
    for node_id, node in graph.items():
        inputs = node["inputs"]
        most = {**MOST, **{name: n * _pixels(node) for name, n in PATCHES.items()}}
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


def _pixels(node: dict) -> int:
    """The side of a patch, in pixels."""
    return 32 if node["class_type"] == "Wan22ImageToVideoLatent" else 16


def _exceeds(value, most) -> bool:
    numbers = (value, most)
    if not all(isinstance(n, int | float) and not isinstance(n, bool) for n in numbers):
        return False
    return value > most


def _is_set(settings: dict, node_id: str, name: str) -> bool:
    return name in settings or f"{node_id}.{name}" in settings
