"""What this pack adds to ComfyUI."""

from comfy_api.latest import ComfyExtension, io

from .compare import RadialAttentionCompare
from .patch import RadialAttentionPatch
from .preview import RadialMaskPreview
from .probe import RadialAttentionProbe
from .report import RadialAttentionReport
from .search import RadialSettingsSearch
from .train_layers import RadialTrainLayers
from .trim_lora import RadialTrimLora


class RadialAttentionExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [
            RadialAttentionPatch,
            RadialMaskPreview,
            RadialAttentionReport,
            RadialAttentionProbe,
            RadialAttentionCompare,
            RadialSettingsSearch,
            RadialTrainLayers,
            RadialTrimLora,
        ]
