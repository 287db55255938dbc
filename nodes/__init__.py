"""The nodes that this pack adds to ComfyUI."""

from comfy_api.latest import ComfyExtension, io

from .comfyui import features

NODES = {  # class -> the file that defines it
    "RadialAttentionPatch": ".patch",
    "RadialMaskPreview": ".preview",
    "RadialAttentionReport": ".report",
    "RadialAttentionProbe": ".probe",
    "RadialAttentionCompare": ".compare",
    "RadialSettingsSearch": ".search",
    "RadialTrainLayers": ".train_layers",
    "RadialTrimLora": ".trim_lora",
}


class RadialAttentionExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """All nodes that this ComfyUI can run. What the others lack is logged."""
        files = {name: features.load(f"node {name}", file) for name, file in NODES.items()}
        return [getattr(file, name) for name, file in files.items() if file is not None]
