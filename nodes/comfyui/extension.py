"""The extension that ComfyUI asks for the pack's nodes."""

from comfy_api.latest import ComfyExtension, io

from .. import NODES
from . import features


class RadialAttentionExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """All nodes that this ComfyUI can run. What the others lack is logged."""
        files = {name: features.load(f"node {name}", file) for name, file in NODES.items()}
        return [getattr(file, name) for name, file in files.items() if file is not None]
