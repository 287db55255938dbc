import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
# Triton reads this when a kernel is defined. Without a GPU its interpreter runs kernels in Python.
os.environ.setdefault("TRITON_INTERPRET", "1")
