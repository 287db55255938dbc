"""A custom node pack without nodes, for stand-in text encoders.

ComfyUI reads the size of a diffusion model from its weights and metadata, but the size of a text
encoder from a file of its own. With this, a text encoder's metadata may state its size too.
"""

import json

import comfy.sd
from safetensors import safe_open

NODE_CLASS_MAPPINGS = {}

_load_clip = comfy.sd.load_clip


def load_clip(ckpt_paths, *args, model_options=None, **kwargs):
    model_options = dict(model_options or {})
    for path in ckpt_paths:
        with safe_open(path, "pt") as file:
            config = json.loads((file.metadata() or {}).get("config", "{}"))
        model_options.update(config.get("text_encoder_options", {}))
    return _load_clip(ckpt_paths, *args, model_options=model_options, **kwargs)


comfy.sd.load_clip = load_clip
