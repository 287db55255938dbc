"""What this pack adds to ComfyUI."""

from comfy_api.latest import ComfyExtension, io

from .patch import RadialAttentionPatch


class RadialAttentionExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [RadialAttentionPatch]
