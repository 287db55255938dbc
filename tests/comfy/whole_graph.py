"""A tiny graph with all of our nodes, for tests of the API."""

import copy

from comfy_extras.nodes_train import TrainLoraNode
from conftest import pack_module
from headless.graph import load_graph, set_inputs

import nodes

SMALL = {"width": 64, "height": 64, "length": 33, "steps": 2}
SAMPLER, OUTPUT = "9", "30"
# Each of our nodes: its id in the graph, and the links of its sockets. They run in this order, and
# the sampler gets the model of the last one that outputs one.
OURS = {
    "RadialTrainLayers": ("25", {"model": ["1", 0]}),
    "RadialMultiGPU": ("28", {"model": ["25", 0]}),
    "RadialAttentionPatch": ("4", {"model": ["28", 0]}),
    "RadialMaskPreview": ("20", {"model": ["4", 0]}),
    "RadialAttentionProbe": ("21", {"model": ["5", 0]}),
    "RadialAttentionReport": ("22", {"samples": [SAMPLER, 0], "model": ["4", 0]}),
    "RadialAttentionCompare": ("23", {"samples": ["22", 0], "model": ["21", 0]}),
    "RadialSettingsSearch": ("24", {"measurements": ["23", 3]}),
    "RadialTrimLora": ("26", {"lora": ["27", 0]}),
}
# ComfyUI's node that makes a LORA_MODEL, and its inputs besides defaults.
TRAIN = "27"
TRAINING = {"latents": ["8", 0], "positive": ["6", 0], "model": ["25", 0], "steps": 1, "rank": 1}


def our_nodes() -> dict:
    """Node id -> class, for all nodes that the pack adds to ComfyUI."""
    pack = pack_module("nodes").__name__
    return {
        name: node
        for name, node in nodes.NODE_CLASS_MAPPINGS.items()
        if node.__module__.startswith(f"{pack}.")
    }


def sockets_and_widgets(node) -> tuple[dict, dict]:
    """Inputs of a node: name -> type for sockets, name -> (type, options) for widgets."""
    inputs = node.INPUT_TYPES()
    inputs = {**inputs.get("required", {}), **inputs.get("optional", {})}
    widgets = {
        name: (kind, options)
        for name, (kind, options) in inputs.items()
        if kind in ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
    }
    return {name: spec[0] for name, spec in inputs.items() if name not in widgets}, widgets


def defaults_of(node) -> dict:
    _, widgets = sockets_and_widgets(node)
    return {name: default_of(options) for name, (_, options) in widgets.items()}


def default_of(options: dict):
    return options["default"] if "default" in options else options["options"][0]


def whole_graph() -> dict:
    """The first workflow up to the latent, with all of our nodes around its sampler."""
    graph = set_inputs(load_graph("wan21_t2v"), SMALL)
    for video in ("10", "11", "12"):
        del graph[video]
    for name, node in our_nodes().items():
        node_id, links = OURS[name]
        graph[node_id] = {"class_type": name, "inputs": {**defaults_of(node), **links}}
    inputs = {**defaults_of(TrainLoraNode), **TRAINING}
    if "4" in graph:  # the presets use few of the node's inputs
        graph["4"]["inputs"]["preset"] = "custom"
    graph[TRAIN] = {"class_type": "TrainLoraNode", "inputs": inputs}
    if "21" in graph:
        graph[SAMPLER]["inputs"]["model"] = ["21", 0]
    graph[OUTPUT] = {"class_type": "PreviewAny", "inputs": {"source": [SAMPLER, 0]}}
    return graph


def around(graph: dict, node_id: str) -> dict:
    """The part of a graph that one node needs: up to the sampler if it is before it."""
    part = _needs(graph, OUTPUT)
    if node_id not in part:
        part = _needs(graph, node_id)
    return copy.deepcopy({key: node for key, node in graph.items() if key in part})


def _needs(graph: dict, node_id: str) -> set[str]:
    links = [x for x in graph[node_id]["inputs"].values() if isinstance(x, list)]
    return {node_id}.union(*(_needs(graph, source) for source, _ in links))
