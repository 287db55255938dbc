"""Reads API graphs and sets their inputs."""

import copy
import json
from pathlib import Path

NODE = "RadialAttentionPatch"
FOLDER = Path(__file__).parents[1] / "api"
TYPES = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}


def names() -> list[str]:
    """The graphs that ship with the pack."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def load_graph(name: str) -> dict:
    """A shipped graph by name, or any API JSON by path.

    Raises SystemExit with one line if there is no such file or it is not an API graph.
    """
    path = FOLDER / f"{name}.json"
    if not path.exists():
        path = Path(name)
    if not path.is_file():
        raise SystemExit(f"No workflow named {name}. There are: {', '.join(names())}")
    try:
        graph = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SystemExit(f"Can't read {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise SystemExit(f"{path} is not JSON: {error}") from None
    if not isinstance(graph, dict) or not any(map(_is_node, graph.values())):
        raise SystemExit(f"{path} is not in API format. In ComfyUI use File > Export (API).")
    for node_id, node in graph.items():
        if fault := _fault(node, graph):
            raise SystemExit(f"{path}: node {node_id}: {fault}")
    return graph


def _is_node(node) -> bool:
    return isinstance(node, dict) and "class_type" in node


def _fault(node, graph: dict) -> str | None:
    """What is wrong with a node. ComfyUI itself would fail on these without an explanation."""
    if not isinstance(node, dict):
        return f"expected an object, got {_type_name(node)}"
    for key, expected in (("class_type", str), ("inputs", dict)):
        if key not in node:
            return f"has no {key}"
        if not isinstance(node[key], expected):
            return f"{key} must be {TYPES[expected]}, got {_type_name(node[key])}"
    if not isinstance(node.get("_meta", {}), dict):
        return f"_meta must be an object, got {_type_name(node['_meta'])}"
    for name, value in node["inputs"].items():
        if isinstance(value, list):
            if not _is_link(value):
                return f"{name}: a link must be [node, number of its output], got {value}"
            if value[0] not in graph:
                return f"{name} comes from node {value[0]}, which is not there"
    return None


def _is_link(value: list) -> bool:
    return len(value) == 2 and isinstance(value[0], str) and type(value[1]) is int


def _type_name(value) -> str:
    return TYPES.get(type(value), "a number")


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
