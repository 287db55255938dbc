"""Pictures for people, drawn with Pillow, which ComfyUI has. One kind a file."""
