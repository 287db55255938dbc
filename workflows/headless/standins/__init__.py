"""Tiny random weights in place of real checkpoints, so that a graph runs without downloads.

The architecture is the real one, smaller: ComfyUI's own classes, loaded by its own loaders, with
sizes that standin_sizes reads where ComfyUI takes them for granted. What comes out is coloured
noise. Run in the environment: python -m headless.standins COMFYUI_FOLDER MODELS_FOLDER
"""
