"""Several cards for one video: processes that each hold the model, and split each forward pass."""
