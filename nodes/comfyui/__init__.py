"""What this pack uses of ComfyUI itself: its state, attention functions and option keys."""
