"""A custom node pack without nodes, for the stand-ins.

ComfyUI reads most sizes of a model from its weights and assumes the others. With this pack the
metadata of a file can set those too, as JSON under "config":

- "built_with": {"a.module.Class": {"argument": value}}: while the file is loaded, that class is
  built with these keyword arguments.
- "text_encoder_options": {"umt5xxl_model_config": {...}}: model options for ComfyUI's load_clip.
"""

import contextlib
import json

import comfy.sd
from safetensors import safe_open

from .building import built_with

NODE_CLASS_MAPPINGS = {}

_load_clip = comfy.sd.load_clip
_load_diffusion_model = comfy.sd.load_diffusion_model
_vae_init = comfy.sd.VAE.__init__


def load_clip(ckpt_paths, *args, model_options=None, **kwargs):
    model_options = dict(model_options or {})
    with contextlib.ExitStack() as stack:
        for config in (config_of(_metadata_of(path)) for path in ckpt_paths):
            model_options.update(config.get("text_encoder_options", {}))
            stack.enter_context(built_with(config.get("built_with", {})))
        return _load_clip(ckpt_paths, *args, model_options=model_options, **kwargs)


def load_diffusion_model(unet_path, *args, **kwargs):
    with built_with(config_of(_metadata_of(unet_path)).get("built_with", {})):
        return _load_diffusion_model(unet_path, *args, **kwargs)


def vae_init(self, *args, metadata=None, **kwargs):
    with built_with(config_of(metadata).get("built_with", {})):
        _vae_init(self, *args, metadata=metadata, **kwargs)


def config_of(metadata: dict | None) -> dict:
    return json.loads((metadata or {}).get("config", "{}"))


def _metadata_of(path) -> dict | None:
    with safe_open(path, "pt") as file:
        return file.metadata()


comfy.sd.load_clip = load_clip
comfy.sd.load_diffusion_model = load_diffusion_model
comfy.sd.VAE.__init__ = vae_init
