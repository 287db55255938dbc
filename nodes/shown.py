"""What a node shows on itself: a picture, and words below it."""

import torch
from comfy_api.latest import io, ui


def shown(picture: torch.Tensor, text: str, cls: type[io.ComfyNode]) -> dict:
    """The `ui` of a NodeOutput. picture: an IMAGE. cls: the node, whose graph goes into the file.

    The picture is a file in ComfyUI's folder for temporary ones. The page shows it by itself; the
    words are put on the node by web/js/shown.js.
    """
    return {**ui.PreviewImage(picture, cls=cls).as_dict(), "text": (text,)}
