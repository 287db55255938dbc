"""The attention hook: decides what becomes of each attention call of a model, and computes it."""
