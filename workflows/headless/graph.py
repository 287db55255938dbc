"""Reads API graphs and sets their inputs."""

import copy
import json
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "api"


def names() -> list[str]:
    """The graphs that ship with the pack."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def load_graph(name: str) -> dict:
    """A shipped graph by name, or any API JSON by path. Raises SystemExit if it is neither."""
    path = FOLDER / f"{name}.json"
    if not path.exists():
        path = Path(name)
    if not path.is_file():
        raise SystemExit(f"No workflow named {name}. There are: {', '.join(names())}")
    try:
        graph = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SystemExit(f"{path} is not JSON: {error}") from None
    if not isinstance(graph, dict) or not all(
        isinstance(node, dict) and "class_type" in node for node in graph.values()
    ):
        raise SystemExit(f"{path} is not in API format. In ComfyUI use File > Export (API).")
    return graph


def set_inputs(graph: dict, settings: dict[str, object]) -> dict:
    """A copy of the graph with inputs set: "steps" on each node that has it, "9.steps" on one.

    Raises SystemExit if no node has such an input as a plain value.
    """
    graph = copy.deepcopy(graph)
    for setting, value in settings.items():
        if not (nodes := holders(graph, setting)):
            raise SystemExit(f"--set {setting}: no node of the workflow has such an input")
        for node in nodes:
            node["inputs"][setting.rpartition(".")[2]] = value
    return graph


def holders(graph: dict, setting: str) -> list[dict]:
    """The nodes that hold an input, "steps" or "9.steps", as a plain value and not as a link."""
    node_id, _, name = setting.rpartition(".")
    nodes = [graph[node_id]] if node_id in graph else [] if node_id else graph.values()
    return [n for n in nodes if name in n["inputs"] and not isinstance(n["inputs"][name], list)]
