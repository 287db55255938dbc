"""The names by which ComfyUI and this pack find each other in a model's options."""

SLOT = "optimized_attention_override"  # ComfyUI's attention hook, in transformer_options
KEY = "radial_attention"  # our wrappers' and callback's name, and our entry in transformer_options
BLOCK = f"{KEY}_block"  # in transformer_options: the place in the model of the block that has them
IN_PARTS = f"{KEY}_in_parts"  # the same: the block is compiled by itself
PREVIOUS = f"{KEY}_previous"  # in options that a block got from us: what its own had on the hook
