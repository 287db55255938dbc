"""Sets up whatever is missing and runs the checks: lint, the core, the pack in the real ComfyUI.

python tests/run.py                 all of them
python tests/run.py core            one or more of: lint, core, comfy (the newest), comfy-0.16.3,
                                    browser (ComfyUI's page in your Chromium, Chrome or Edge)
python tests/run.py core -- -k odd  what follows -- goes to pytest
python tests/run.py --gpu           the kernels on this machine's GPU, in the Python that runs this:
                                    its torch, and every kernel library that it has
"""

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "workflows"), str(ROOT / "tests/browser")]

from chromium import HOW_TO_GET_ONE, find_chromium  # noqa: E402
from headless.environment import NEWEST, OLDEST, ensure_environment  # noqa: E402
from headless.signals import end_on_signals  # noqa: E402

COMFYUI = {"comfy": NEWEST, f"comfy-{OLDEST.version}": OLDEST}
PARTS = ("lint", "core", *COMFYUI, "browser")


def lacks(part: str) -> str | None:
    """What a part needs that can't be set up here and that this machine lacks."""
    return HOW_TO_GET_ONE if part == "browser" and find_chromium() is None else None


def commands(part: str, pytest_arguments: list[str]) -> list[list[str]]:
    if part == "lint":
        return [["ruff", "check", "."], ["ruff", "format", "--check", "."]]
    # One process each: with ours on sys.path, `import nodes` would not be ComfyUI's. -P keeps the
    # current folder off it.
    return [["pytest", "tests/comfy" if part in COMFYUI else f"tests/{part}", *pytest_arguments]]


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


def start(part: str, pytest_arguments: list[str], python: Path, log) -> list[subprocess.Popen]:
    """The processes of a part, which write into the file `log`."""
    variables = {
        # Tiny models: more threads than this only get in each other's way.
        "OMP_NUM_THREADS": str(min(os.cpu_count() or 1, 2)),
        **os.environ,
        "PYTHONUNBUFFERED": "1",
    }
    if part in COMFYUI:
        variables["RADIAL_ATTENTION_COMFYUI_VERSION"] = COMFYUI[part].version
    processes = []
    for command in commands(part, pytest_arguments):
        print(f"{part} $ {' '.join(command)}", file=log, flush=True)
        command = [python, "-P", "-m", *command]
        options = {"stdout": log, "stderr": subprocess.STDOUT}
        processes.append(subprocess.Popen(command, cwd=ROOT, env=variables, **options))
    return processes


def follow(processes: list[subprocess.Popen], log: Path) -> bool:
    """Print what the processes write until they end. Returns whether all of them succeeded."""
    with open(log, encoding="utf-8", errors="replace") as lines:
        running = True
        while running:
            running = any(process.poll() is None for process in processes)
            print(lines.read(), end="", flush=True)
            time.sleep(0.2)
    return not any(process.returncode for process in processes)


def main():
    words = sys.argv[1:]
    at = words.index("--") if "--" in words else len(words)
    parts, pytest_arguments = words[:at] or PARTS, words[at + 1 :]
    if parts == ["--gpu"]:
        return test_gpu(pytest_arguments)
    if unknown := set(parts) - set(PARTS):
        raise SystemExit(f"Expected any of {', '.join(PARTS)}; got {', '.join(unknown)}\n{__doc__}")
    not_run = {part: why for part in parts if (why := lacks(part))}
    for part, why in not_run.items():
        if part in words[:at]:
            raise SystemExit(f"{part}: {why}.")
        print(f"Not run: {part}: {why}.")
    parts = [part for part in parts if part not in not_run]
    end_on_signals()
    for part in parts:
        python = ensure_environment(COMFYUI.get(part, NEWEST)).python
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        logs, started = {part: Path(folder, part) for part in parts}, {}
        for part, path in logs.items():  # all at once: one by one they take twice the time
            log = stack.enter_context(open(path, "w", encoding="utf-8"))
            started[part] = start(part, pytest_arguments, python, log)
            for process in started[part]:
                stack.callback(process.terminate)
        failed = [part for part in logs if not follow(started[part], logs[part])]
    if failed:
        raise SystemExit(f"Failed: {', '.join(failed)}")
    but = ", ".join(f"{part} ({why})" for part, why in not_run.items())
    print(f"All passed, but not run: {but}." if but else "All passed.")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit("Stopped.") from None
