"""What a node shows on itself: a picture, and words below it."""

import logging

import torch
from comfy_api.latest import io, ui

log = logging.getLogger("radial_attention")


def shown(picture: torch.Tensor, text: str, cls: type[io.ComfyNode]) -> dict:
    """The `ui` of a NodeOutput. picture: an IMAGE. cls: the node, whose graph goes into the file.

    The picture is a file in ComfyUI's folder for temporary ones. The page shows it by itself; the
    words are put on the node by web/js/shown.js. Where the file can't be written there are only
    words: a full disk must not cost the video.
    """
    try:
        images = ui.PreviewImage(picture, cls=cls).as_dict()
    except Exception:
        log.exception("Radial attention: a picture can't be shown on its node")
        images = {}
    return {**images, "text": (text,)}
