"""Adaptive lists: each head keeps the key blocks that it attends to most."""
