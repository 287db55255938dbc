"""Sets up whatever is missing and runs the checks: lint, the core, the pack in the real ComfyUI.

python tests/run.py                 all but the slow tests; this is what CI runs
python tests/run.py --all           the slow ones too: before a release, and once a week
python tests/run.py core            one or more of: lint, core, comfy (the newest), comfy-0.16.3,
                                    browser (ComfyUI's page in your Chromium, Chrome or Edge)
python tests/run.py core -- -k odd  arguments after -- go to pytest
python tests/run.py comfy --comfyui DIR   in your own ComfyUI, such as its master
python tests/run.py --gpu           the kernels on this machine's GPU, in the Python that runs this,
                                    with its torch and every kernel library that it has
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "workflows"), str(ROOT / "tests/browser")]

from chromium import HOW_TO_GET_ONE, find_chromium  # noqa: E402
from headless.environment import NEWEST, OLDEST, ensure_environment  # noqa: E402
from headless.signals import end_on_signals  # noqa: E402

OLD = f"comfy-{OLDEST.version}"
COMFYUI = {"comfy": NEWEST, OLD: OLDEST}
# In the order in which they start and are printed: the longest first, after lint, which is quick.
PARTS = ("lint", "comfy", "browser", OLD, "core")
EVERY_TEST = ["-m", ""]  # replaces the mark expression in pyproject.toml


def read_arguments() -> tuple[argparse.Namespace, list[str]]:
    """Our options, and the arguments for pytest."""
    given = sys.argv[1:]
    split = given.index("--") if "--" in given else len(given)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART")
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--comfyui", type=Path, metavar="DIR")
    parser.add_argument("--gpu", action="store_true")
    options = parser.parse_args(given[:split])
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"expected any of {', '.join(PARTS)}; got {', '.join(unknown)}")
    if options.comfyui:
        if options.parts != ["comfy"]:
            parser.error("--comfyui only works with the part comfy")
        if not (options.comfyui / "main.py").is_file():
            parser.error(f"--comfyui: expected ComfyUI's folder, {options.comfyui} has no main.py")
    return options, (EVERY_TEST if options.all else []) + given[split + 1 :]


def lacks(part: str) -> str | None:
    """What a part needs that this machine lacks and the set-up can't provide."""
    return HOW_TO_GET_ONE if part == "browser" and find_chromium() is None else None


def test_gpu(pytest_arguments: list[str]):
    check = "import einops, pytest, torch; raise SystemExit(not torch.cuda.is_available())"
    if subprocess.run([sys.executable, "-c", check]).returncode:
        raise SystemExit(
            "--gpu needs an NVIDIA GPU, and a Python with torch for CUDA, einops and pytest: that "
            f"of your ComfyUI, with pytest installed. This is {sys.executable}."
        )
    raise SystemExit(
        subprocess.run(
            [sys.executable, "-P", "-m", "pytest", "tests/gpu", *pytest_arguments], cwd=ROOT
        ).returncode
    )


@dataclass
class Part:
    """A part of the checks: its commands, and the running process."""

    name: str
    python: Path
    log: Path
    comfyui: Path | None
    pytest_arguments: list[str]
    process: subprocess.Popen | None = None
    seconds: float = 0.0

    def commands(self) -> list[list[str]]:
        if self.name == "lint":
            return [["ruff", "check", "."], ["ruff", "format", "--check", "."]]
        # One process each: with ours on sys.path, `import nodes` would not be ComfyUI's.
        folder = "tests/comfy" if self.name in COMFYUI else f"tests/{self.name}"
        return [["pytest", folder, *self.pytest_arguments]]

    def variables(self) -> dict[str, str]:
        # Parts run in parallel, one core each. OpenMP's threads wait by spinning, so more threads
        # than cores take many times as long.
        variables = {"OMP_NUM_THREADS": "1", **os.environ, "PYTHONUNBUFFERED": "1"}
        if self.name in COMFYUI:
            variables["RADIAL_ATTENTION_COMFYUI_VERSION"] = COMFYUI[self.name].version
        if self.comfyui:
            variables["RADIAL_ATTENTION_COMFYUI"] = str(self.comfyui.resolve())
        return variables

    def run(self) -> bool:
        """Returns whether all commands succeeded."""
        start, codes = time.monotonic(), []
        with open(self.log, "a", encoding="utf-8") as log:
            for command in self.commands():
                print(f"{self.name} $ {' '.join(command)}", file=log, flush=True)
                # -P keeps the current folder off sys.path.
                command = [self.python, "-P", "-m", *command]
                outputs = {"stdout": log, "stderr": subprocess.STDOUT}
                self.process = subprocess.Popen(command, cwd=ROOT, env=self.variables(), **outputs)
                codes.append(self.process.wait())
        self.seconds = time.monotonic() - start
        return not any(codes)


def follow(log: Path, done: Future) -> bool:
    """Print a part's output until it ends. Returns whether it succeeded."""
    with open(log, encoding="utf-8", errors="replace") as lines:
        running = True
        while running:
            running = not done.done()
            print(lines.read(), end="", flush=True)
            time.sleep(0.2)
    return done.result()


def run_all(parts: list[Part]) -> list[Part]:
    """Run the parts, as many at once as there are cores. Returns those that failed."""
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        futures = [pool.submit(part.run) for part in parts]
        try:
            succeeded = [
                follow(part.log, future) for part, future in zip(parts, futures, strict=True)
            ]
            return [part for part, passed in zip(parts, succeeded, strict=True) if not passed]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for part in parts:
                if part.process is not None:
                    part.process.terminate()
            raise


def main():
    options, pytest_arguments = read_arguments()
    if options.gpu:
        return test_gpu(pytest_arguments)
    names = [name for name in PARTS if name in (options.parts or PARTS)]
    not_run = {name: why for name in names if (why := lacks(name))}
    for name, why in not_run.items():
        if name in options.parts:
            raise SystemExit(f"{name}: {why}.")
        print(f"Not run: {name}: {why}.")
    end_on_signals()
    with tempfile.TemporaryDirectory() as folder:
        parts = []
        for name in names:
            if name not in not_run:
                python = ensure_environment(COMFYUI.get(name, NEWEST)).python
                log = Path(folder, name)
                log.touch()
                parts.append(Part(name, python, log, options.comfyui, pytest_arguments))
        failed = run_all(parts)
    print("Took: " + ", ".join(f"{part.name} {part.seconds:.0f} s" for part in parts))
    if failed:
        raise SystemExit(f"Failed: {', '.join(part.name for part in failed)}")
    but = ", ".join(f"{name} ({why})" for name, why in not_run.items())
    print(f"All passed, but not run: {but}." if but else "All passed.")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit("Stopped.") from None
