"""Radial Attention for ComfyUI. ComfyUI loads this file from custom_nodes."""

WEB_DIRECTORY = "./nodes/web"


async def comfy_entrypoint():
    from .nodes.comfyui.extension import RadialAttentionExtension

    return RadialAttentionExtension()
