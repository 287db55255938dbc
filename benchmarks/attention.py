"""How fast and exact is each backend, and how much memory does it take, against dense attention?

One call of one transformer block at the sizes of real videos: head_dim 128, bfloat16. Needs an
NVIDIA GPU and measures every kernel library that is installed. Writes attention-GPU.json.

    python benchmarks/attention.py [--cases TEXT ...] [--backends NAME ...] [--results NAME]
    python benchmarks/attention.py --eight-bits    ours in 8 bits, and what it is compared with
    python benchmarks/attention.py --mine    a minute or two on your card, in a file to send in
"""

import argparse
import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # the Python in ComfyUI portable does not do this

import attention_mine
import record
from attention_case import CASES, bench
from attention_measure import ON_GPU
from attention_rows import EIGHT_BIT_ROWS


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--mine", action="store_true", help="few rows, in results/mine; alone")
    parser.add_argument("--cases", nargs="*", default=[""], help="parts of their names")
    parser.add_argument("--backends", nargs="*", help="only these rows")
    parser.add_argument("--eight-bits", action="store_true", help="only the rows of 8 bits")
    parser.add_argument("--results", help="the name of the file, without .json")
    given = parser.parse_args()
    if given.mine and len(sys.argv) > 2:
        parser.error("--mine takes no other options")
    if not ON_GPU:
        parser.error("it needs a GPU, and torch finds none")
    if given.mine:
        return attention_mine.main()
    only = [*(given.backends or ()), *(EIGHT_BIT_ROWS if given.eight_bits else ())]
    cases = []
    for name in [name for name in CASES if any(word in name for word in given.cases)]:
        cases.append(bench(name, *CASES[name], only))
        record.save(given.results or f"attention-{record.gpu_name()}", cases)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="  %(message)s")
    main()
