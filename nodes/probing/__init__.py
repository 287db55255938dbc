"""Measuring a model's own attention while it samples, and what that says."""
