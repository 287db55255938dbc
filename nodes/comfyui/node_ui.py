"""What a node shows on itself: a picture with text below it."""

import logging

import torch
from comfy_api.latest import io, ui

log = logging.getLogger("radial_attention")


def picture_and_text(picture: torch.Tensor, text: str, cls: type[io.ComfyNode]) -> dict:
    """The `ui` of a NodeOutput. picture: an IMAGE. cls: the node; its graph is saved in the file.

    The picture is saved to ComfyUI's folder for temporary files, and the page shows it by itself.
    web/js/node_text.js puts the text on the node. If the file can't be written there is only text:
    a full disk must not cost the video.
    """
    try:
        images = ui.PreviewImage(picture, cls=cls).as_dict()
    except Exception:
        log.exception("Radial attention: no picture on a node")
        images = {}
    return {**images, "text": (text,)}
