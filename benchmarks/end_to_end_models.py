"""Video models with random weights, built and run by ComfyUI as a library."""

import asyncio
import gc
import importlib
import importlib.util
import json
import logging
import sys
from collections.abc import Callable
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from end_to_end_networks import VideoModel
from record import ROOT

DTYPE = torch.bfloat16
PACK = "radial_attention_pack"


def start_comfyui(folder: Path) -> tuple[torch.device, str]:
    """Put ComfyUI on the path. Returns the device that it runs models on, and its version.

    All weights stay on the GPU, as with its option --highvram.
    """
    if not (folder / "comfy").is_dir():
        raise SystemExit(f"No ComfyUI in {folder}. Say where it is: --comfyui FOLDER")
    sys.path.insert(0, str(folder))
    from comfy.cli_args import args

    args.highvram = True
    args.cpu = not torch.cuda.is_available()
    import comfy.model_management
    import comfyui_version

    return comfy.model_management.get_torch_device(), comfyui_version.__version__


def radial_node():
    """The class of the node "Radial Attention Patch"."""
    if PACK not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            PACK, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
        )
        sys.modules[PACK] = pack = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(pack)

    async def nodes():
        return await (await sys.modules[PACK].comfy_entrypoint()).get_node_list()

    every = asyncio.run(nodes())
    return next(node for node in every if node.define_schema().node_id == "RadialAttentionPatch")


def radial(model, **settings):
    """A MODEL with the patch: radial at every step and block, except for these settings.

    Dense calls run the fastest exact kernel.
    """
    chosen = dict(dense_steps=0, dense_last_steps=0, dense_blocks=0, block_size=128)
    chosen |= dict(backend="auto", dense_attention="fastest")
    return radial_node().execute(model, **chosen | settings).args[0]


def override_of(model):
    """The override that the patch put into a MODEL; None without the patch."""
    radial_node()  # loads the pack
    return importlib.import_module(f"{PACK}.nodes.hook.attach").override_of(model)


def load(model: VideoModel, device: torch.device, blocks: dict[str, int] | None):
    """A MODEL with its weights on the device, and the bytes of the blocks that were left out.

    blocks: how many of each list to keep; None for all.
    """
    import comfy.model_detection
    import comfy.ops
    import comfy.sd

    settings = model.settings
    if settings is None:
        settings = comfy.model_detection.detect_unet_config({"t5_yproj.weight": None}, "")
    module, _, name = model.network.rpartition(".")
    network = getattr(importlib.import_module(module), name)
    with torch.device("meta"):
        shapes = network(**settings, operations=comfy.ops.disable_weight_init).state_dict()
    zero = torch.zeros((), dtype=DTYPE, device=device)
    weights = {key: zero.expand(x.shape) for key, x in shapes.items()}  # takes no memory
    about = {"config": json.dumps({"transformer": settings})}  # as LTX's checkpoints have it
    with torch.device(device):
        patcher = comfy.sd.load_diffusion_model_state_dict(
            weights, model_options={"dtype": DTYPE}, metadata=about
        )
    net = patcher.model.diffusion_model
    before = _bytes(net)
    if blocks is not None:
        _shorten(net, blocks)
    left_out = before - _bytes(net)
    _randomise(net, device)
    comfy.model_management.load_models_gpu([patcher])
    return patcher, left_out


def _bytes(net) -> int:
    return sum(x.numel() * x.element_size() for x in net.parameters())


def _randomise(net, device: torch.device):
    """Random matrices that preserve the scale of their input; norms are 1, biases 0."""
    random = torch.Generator(device).manual_seed(0)
    with torch.no_grad():
        for name, x in net.named_parameters():
            if x.ndim > 1:
                x.normal_(0, x[0].numel() ** -0.5, generator=random)
            else:
                x.fill_(0 if name.endswith("bias") else 1)


def _shorten(net, blocks: dict[str, int]) -> dict:
    """Keep the first blocks of each list and its last, which may differ. Returns the full lists."""
    whole = {name: getattr(net, name) for name in blocks}
    for name, count in blocks.items():
        kept = [*whole[name][: count - 1], whole[name][-1]]
        setattr(net, name, torch.nn.ModuleList(kept))
    return whole


@contextmanager
def shortened(net, blocks: dict[str, int]):
    """Inside, the model has only this many blocks of each list."""
    whole = _shorten(net, blocks)
    try:
        yield
    finally:
        for name, every in whole.items():
            setattr(net, name, every)


def run(patcher, model: VideoModel, latent: tuple[int, int, int], measure: Callable):
    """Run one step of ComfyUI's sampler at cfg 1, in which `measure` calls the model.

    It begins in the middle of the schedule, where adaptive lists need no dense steps before them.

    latent: frames, height, width. measure: (call) -> (figures, out), where call() runs a forward
    pass and out is its output. Returns the figures.
    """
    import comfy.sample

    figures = None

    def wrapper(apply_model, given):
        nonlocal figures
        call = partial(apply_model, given["input"], given["timestep"], **given["c"])
        figures, out = measure(call)
        return out

    patcher = patcher.clone()
    patcher.set_model_unet_function_wrapper(wrapper)
    random = torch.Generator().manual_seed(0)
    noise, empty = _noise_and_latent(model, latent, random)
    text = torch.randn((1, *model.text), generator=random)
    conditions = {name: _condition(name, shape) for name, shape in model.conditions.items()}
    prompt = [[text, conditions]]
    middle = patcher.get_model_object("model_sampling").percent_to_sigma(0.5)
    with torch.inference_mode():
        out = comfy.sample.sample(
            *(patcher, noise, 1, 1.0, "euler", "simple", prompt, prompt, empty),
            disable_pbar=True,
            seed=0,
            sigmas=torch.tensor([middle, 0.0]),
        )
    if not all(x.isfinite().all() for x in (out.unbind() if out.is_nested else [out])):
        logging.warning("The model's output is not finite: are these figures fair?")
    return figures


def _noise_and_latent(model: VideoModel, latent: tuple[int, int, int], random: torch.Generator):
    """Noise and an empty latent; with sound, each is two tensors in one, as ComfyUI has them."""
    video = torch.randn((1, model.channels, *latent), generator=random)
    if model.sound is None:
        return video, torch.zeros_like(video)
    from comfy.nested_tensor import NestedTensor

    both = video, torch.randn((1, *model.sound.shape(latent[0])), generator=random)
    return NestedTensor(both), NestedTensor(tuple(map(torch.zeros_like, both)))


def _condition(name: str, shape: tuple[int, ...] | None) -> torch.Tensor | None:
    if shape is None:
        return None
    if name == "attention_mask":
        return torch.ones(shape, dtype=torch.long)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def unload():
    """Free the models' memory."""
    import comfy.model_management

    comfy.model_management.unload_all_models()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
