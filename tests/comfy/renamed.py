"""Loads the pack and samples with it in a ComfyUI that lacks a name; prints JSON lines.

python renamed.py COMFYUI PACK MODEL NAME ...

A NAME is one of ComfyUI's modules or names (module:name), or a module of the pack whose import
shall fail (nodes.hook.compiled). ComfyUI is imported once; each NAME gets a fork of the process.
"""

import asyncio
import importlib
import json
import logging
import os
import sys
import types

comfyui, pack, model_file, *names = sys.argv[1:]
sys.argv[1:] = ["--cpu"]
sys.path.insert(0, comfyui)

import torch  # noqa: E402
from comfy.cli_args import args  # noqa: E402

args.cpu = args.disable_api_nodes = True

import comfy.sd  # noqa: E402

import nodes  # noqa: E402  (ComfyUI's)


def rename(name: str):
    """Remove a name for later imports. ComfyUI's own code keeps what it has already imported."""
    module, _, name = name.partition(":")
    if name:
        real = importlib.import_module(module)
        moved = types.ModuleType(module)
        vars(moved).update((key, value) for key, value in vars(real).items() if key != name)
        sys.modules[module] = moved
    elif module.startswith("comfy"):
        sys.modules[module] = None
    else:
        sys.meta_path.insert(0, Fails(module))


class Fails:
    """An import finder under which one file of the pack can't be imported."""

    def __init__(self, file: str):
        self.file = file

    def find_spec(self, name, path=None, target=None):
        if name.endswith(f".{self.file}"):
            raise ImportError(f"{self.file} needs a name that moved")


def sampled() -> dict:
    """Sample with the patch. Returns the pack's nodes, what ran, and the log."""
    lines, handler = [], logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logging.getLogger("radial_attention").addHandler(handler)
    loads = asyncio.run(nodes.load_custom_node(pack))
    loaded = sorted(name for name in nodes.NODE_CLASS_MAPPINGS if name.startswith("Radial"))
    if not loads or "RadialAttentionPatch" not in loaded:
        return {"nodes": loaded}
    node = nodes.NODE_CLASS_MAPPINGS["RadialAttentionPatch"]
    settings = dict(dense_steps=0, dense_last_steps=0, dense_blocks=1, sink_frames=1, decay=0.2)
    model = comfy.sd.load_diffusion_model(model_file)
    patched = node.execute(model, **settings, block_size="64", backend="auto").args[0]
    prompt = [[torch.randn(1, 20, 16), {}]]
    latent = {"samples": torch.zeros(1, 16, 9, 12, 20)}
    sampler = ("euler", "simple", prompt, prompt, latent)
    for _ in range(2):
        nodes.common_ksampler(patched, 1, 1, 1.0, *sampler)
    package = node.__module__.removesuffix(".patch")
    attach = importlib.import_module(f"{package}.hook.attach")
    summary_text = importlib.import_module(f"{package}.run.summary_text")
    run = attach.override_of(patched).runs[-1].read()
    return {
        "nodes": loaded,
        "radial_calls": run["totals"]["radial_calls"],
        "status": summary_text.status(run),
        "log": lines,
    }


torch.set_num_threads(1)
for name in names:
    sys.stdout.flush()
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        continue
    try:
        rename(name)
        print(json.dumps({"name": name, **sampled()}))
    except BaseException as error:
        print(json.dumps({"name": name, "error": f"{type(error).__name__}: {error}"}))
    sys.stdout.flush()
    os._exit(0)
