"""The keys that this pack reads and sets in a model's options."""

SLOT = "optimized_attention_override"  # where transformer_options has ComfyUI's attention hook
# In transformer_options: the Sol-Attn packs reorder the video's tokens around the blocks.
MORTON = "sol_morton"
# In transformer_options: False where LTXVideo's MultimodalGuider leaves the video as it was.
RUNS_VIDEO = "run_vx"
KEY = "radial_attention"  # of our wrappers and callback, and of our entry in transformer_options
BLOCK = f"{KEY}_block"  # in transformer_options: which block these options were passed to
IN_PARTS = f"{KEY}_in_parts"  # in transformer_options: that block is compiled by itself
PREVIOUS = f"{KEY}_previous"  # in options we passed to a block: the hook its own options had
CARDS = f"{KEY}_cards"  # of Radial Multi-GPU's wrapper and callback
