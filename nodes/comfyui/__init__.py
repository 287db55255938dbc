"""ComfyUI as this pack meets it: its state, its attention functions, the keys in its options."""
