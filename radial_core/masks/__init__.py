"""Which key blocks each query block attends to: one mask a file, behind one interface (mask.py)."""
