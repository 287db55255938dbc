import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
# Triton reads it when a kernel is defined: without a GPU its interpreter runs them, in Python.
os.environ.setdefault("TRITON_INTERPRET", "1")
