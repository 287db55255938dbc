"""Tiny random weights instead of real checkpoints, so that a graph runs without downloads.

The architecture is the real one, smaller: ComfyUI's own classes and loaders, with standin_sizes for
the sizes that ComfyUI assumes. The video is coloured noise.

Run in the environment: python -m headless.standins COMFYUI_FOLDER MODELS_FOLDER
"""
