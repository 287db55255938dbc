"""Small fakes of ComfyUI 0.38 and of packs for it, which can't be installed here, one a file.

Each hooks into ComfyUI as the real one does; what they compute is their own.
"""
