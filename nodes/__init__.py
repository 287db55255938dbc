"""What this pack adds to ComfyUI. Nothing is imported before it is asked for."""

NODES = {  # class -> the file that has it
    "RadialAttentionPatch": ".patch",
    "RadialMaskPreview": ".preview",
    "RadialAttentionReport": ".report",
    "RadialAttentionProbe": ".probe",
    "RadialAttentionCompare": ".compare",
    "RadialSettingsSearch": ".search",
    "RadialTrainLayers": ".train_layers",
    "RadialTrimLora": ".trim_lora",
}
