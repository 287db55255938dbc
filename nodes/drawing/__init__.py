"""Pictures on the nodes, drawn with Pillow, which ComfyUI has. One kind of picture a file."""
