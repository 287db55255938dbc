"""Sets up whatever is missing and runs the checks: lint, the core, the pack in the real ComfyUI.

python tests/run.py                 all of them
python tests/run.py core            one or more of: lint, core, comfy
python tests/run.py core -- -k odd  what follows -- goes to pytest
python tests/run.py --gpu           the kernels on this machine's GPU, in the Python that runs this:
                                    its torch, and every kernel library that it has
"""

import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "workflows"))

from headless.environment import ensure_environment  # noqa: E402

PARTS = ("lint", "core", "comfy")


def commands(part: str, pytest_arguments: list[str]) -> list[list[str]]:
    if part == "lint":
        return [["ruff", "check", "."], ["ruff", "format", "--check", "."]]
    # One process each: with ours on sys.path, `import nodes` would not be ComfyUI's. -P keeps the
    # current folder off it.
    return [["pytest", f"tests/{part}", *pytest_arguments]]


def test_gpu(pytest_arguments: list[str]):
    have = "import einops, pytest, torch; raise SystemExit(not torch.cuda.is_available())"
    if subprocess.run([sys.executable, "-c", have]).returncode:
        raise SystemExit(
            "--gpu needs an NVIDIA GPU, and a Python with torch for CUDA, einops and pytest: that "
            f"of your ComfyUI, with pytest installed. This is {sys.executable}."
        )
    raise SystemExit(
        subprocess.run(
            [sys.executable, "-P", "-m", "pytest", "tests/gpu", *pytest_arguments], cwd=ROOT
        ).returncode
    )


def main():
    words = sys.argv[1:]
    at = words.index("--") if "--" in words else len(words)
    parts, pytest_arguments = words[:at] or PARTS, words[at + 1 :]
    if parts == ["--gpu"]:
        return test_gpu(pytest_arguments)
    if unknown := set(parts) - set(PARTS):
        raise SystemExit(f"Expected any of {', '.join(PARTS)}; got {', '.join(unknown)}\n{__doc__}")
    python = ensure_environment().python
    # Tiny models: more threads than this only get in each other's way.
    environment = {"OMP_NUM_THREADS": str(min(os.cpu_count() or 1, 2)), **os.environ}
    failed = []
    for part in parts:
        start = time.monotonic()
        for command in commands(part, pytest_arguments):
            print(f"$ {' '.join(command)}", flush=True)
            done = subprocess.run([python, "-P", "-m", *command], cwd=ROOT, env=environment)
            if done.returncode and part not in failed:
                failed.append(part)
        print(f"{part}: {time.monotonic() - start:.0f} s\n", flush=True)
    if failed:
        raise SystemExit(f"Failed: {', '.join(failed)}")
    print("All passed.")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit("Stopped.") from None
