"""Which files the registry's package has: what git has, without what .comfyignore names.

That is how `comfy node publish` makes it (comfy_cli/file_utils.py, zip_files). Files that are not
committed yet count as well, so that a test speaks of the tree at hand.
"""

import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def packaged_files() -> list[Path]:
    """Relative to ROOT. Raises CalledProcessError where there is no git repository."""
    ours = _git("ls-files", "--cached", "--others", "--exclude-standard")
    ignored = [
        *_git("ls-files", "--cached", "--ignored", "--exclude-from=.comfyignore"),
        *_git("ls-files", "--others", "--ignored", "--exclude-from=.comfyignore"),
    ]
    return sorted(Path(name) for name in ours - {*ignored} if (ROOT / name).is_file())


def copy_package(target: Path):
    """The package as it is when it has been unpacked into `target`."""
    for file in packaged_files():
        (target / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / file, target / file)


def _git(*arguments: str) -> set[str]:
    done = subprocess.run(
        ["git", "-C", ROOT, *arguments, "-z"], capture_output=True, text=True, check=True
    )
    return {name for name in done.stdout.split("\0") if name}
