"""The attention hook: what runs a model's self-attention calls."""
