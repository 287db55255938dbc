"""The nodes that this pack adds to ComfyUI. Each is imported when it is first needed."""

NODES = {  # class -> the file that defines it
    "RadialAttentionPatch": ".patch",
    "RadialMaskPreview": ".preview",
    "RadialAttentionReport": ".report",
    "RadialAttentionProbe": ".probe",
    "RadialAttentionCompare": ".compare",
    "RadialSettingsSearch": ".search",
    "RadialTrainLayers": ".train_layers",
    "RadialTrimLora": ".trim_lora",
    "RadialMultiGPU": ".multi_gpu",
}
