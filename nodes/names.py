"""The names by which ComfyUI and this pack find each other in a model's options."""

SLOT = "optimized_attention_override"  # ComfyUI's attention hook, in transformer_options
KEY = "radial_attention"  # our wrappers' and callback's name, and our entry in transformer_options
BLOCK = f"{KEY}_block"  # in transformer_options: the place in the model of the block that has them
