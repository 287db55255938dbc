"""The files of the registry's package: those in git, without those that .comfyignore names.

`comfy node publish` makes it in this way (comfy_cli/file_utils.py, zip_files). Uncommitted files
count too, so that a test covers the current tree.
"""

import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def packaged_files() -> list[Path]:
    """Paths relative to ROOT. Raises CalledProcessError if there is no git repository."""
    ours = _git("ls-files", "--cached", "--others", "--exclude-standard")
    ignored = [
        *_git("ls-files", "--cached", "--ignored", "--exclude-from=.comfyignore"),
        *_git("ls-files", "--others", "--ignored", "--exclude-from=.comfyignore"),
    ]
    return sorted(Path(name) for name in ours - {*ignored} if (ROOT / name).is_file())


def copy_package(target: Path):
    """Copy the package's files into `target`, as if unpacked there."""
    for file in packaged_files():
        (target / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / file, target / file)


def _git(*arguments: str) -> set[str]:
    done = subprocess.run(
        ["git", "-C", ROOT, *arguments, "-z"], capture_output=True, text=True, check=True
    )
    return {name for name in done.stdout.split("\0") if name}
