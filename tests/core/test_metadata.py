"""pyproject.toml agrees with what CI runs and with the rules of the ComfyUI Registry.

The registry's rules: docs.comfy.org/registry/specifications and comfy_cli/registry/config_parser.py
of comfy-cli, both as of August 2026.
"""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import tomllib
from PIL import Image

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "workflows"), str(ROOT / "tests"), str(ROOT / ".github")]

from headless.environment import OLDEST  # noqa: E402
from package import packaged_files  # noqa: E402
from release_notes import notes  # noqa: E402

DATA = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT, COMFY = DATA["project"], DATA["tool"]["comfy"]
RAW = PROJECT["urls"]["Repository"].replace("github.com", "raw.githubusercontent.com") + "/main/"
MOST_MEGABYTES = 5


def test_the_oldest_comfyui_is_the_one_that_is_required():
    assert COMFY["requires-comfyui"] == f">={OLDEST.version}"


def test_the_name():
    name = PROJECT["name"]
    assert len(name) < 100
    assert re.fullmatch(r"[A-Za-z]+([-_.]?[A-Za-z0-9]+)*", name)
    assert "comfy" not in name.lower()
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", COMFY["PublisherId"])
    assert COMFY["DisplayName"].strip() == COMFY["DisplayName"] != ""


def test_the_version_is_the_newest_in_the_changelog():
    assert re.fullmatch(r"\d+\.\d+\.\d+", PROJECT["version"])
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    numbers = [heading.partition(" - ")[0] for heading in headings]
    numbers = [number for number in numbers if number != "Unreleased"]
    assert numbers[0] == PROJECT["version"]
    in_order = sorted(numbers, key=lambda n: [int(part) for part in n.split(".")], reverse=True)
    assert numbers == in_order


def test_the_description_and_license():
    assert 20 < len(PROJECT["description"]) <= 200 and "\n" not in PROJECT["description"]
    assert PROJECT["license"] == {"file": "LICENSE"}
    assert "Apache License" in (ROOT / "LICENSE").read_text()[:300]
    assert PROJECT["requires-python"] == ">=3.10"  # ComfyUI's own


def test_the_registry_knows_the_classifiers():
    """An unknown one makes it drop all others of that kind."""
    systems = {c for c in PROJECT["classifiers"] if c.startswith("Operating System")}
    assert systems == {"Operating System :: OS Independent"}
    accelerators = {c for c in PROJECT["classifiers"] if c.startswith("Environment")}
    assert accelerators == {"Environment :: GPU :: NVIDIA CUDA"}


def test_the_addresses():
    urls = PROJECT["urls"]
    assert re.fullmatch(r"https://github\.com/[\w-]+/[\w.-]+", urls["Repository"])
    assert all(url.startswith(urls["Repository"]) for url in urls.values())
    assert {"Repository", "Documentation", "Issues"} <= set(urls)  # the registry shows these


@pytest.mark.parametrize("key, shape", [("Icon", (1, 1)), ("Banner", (21, 9))])
def test_the_pictures(key, shape):
    assert COMFY[key].startswith(RAW)
    file = ROOT / COMFY[key].removeprefix(RAW)
    with Image.open(file) as picture:
        picture.load()
        width, height = picture.size
        assert picture.format == "PNG"
    assert width * shape[1] == height * shape[0]
    assert width <= (400 if key == "Icon" else 2100)
    assert file.stat().st_size < 200_000


def test_requirements_are_the_dependencies_and_pin_nothing():
    """A pin would change packages that are already installed in a user's ComfyUI."""
    wanted = (ROOT / "requirements.txt").read_text().split()
    assert wanted == PROJECT["dependencies"]
    assert all(re.fullmatch(r"[a-z0-9-]+", name) for name in wanted)


def test_the_package_has_what_runs_and_nothing_else():
    try:
        files = packaged_files()
    except subprocess.CalledProcessError:
        pytest.skip("no git repository")
    top = {file.parts[0] for file in files}
    folders = {"benchmarks", "docs", "nodes", "radial_core", "workflows"}
    documents = {"README.md", "CHANGELOG.md", "LICENSE", "pyproject.toml", "requirements.txt"}
    assert top == {*folders, *documents, "__init__.py"}
    assert sum((ROOT / file).stat().st_size for file in files) < MOST_MEGABYTES * 1e6
    suffixes = {file.suffix for file in files}
    assert suffixes <= {".py", ".md", ".json", ".png", ".jpg", ".js", ".toml", ".txt", ""}


PYPROJECT = 'name = "radial-attention"\nversion = "1.2.0"\n'
CHANGELOG = (
    "# Changelog\n\n## 1.2.0 - 2026-11-22\n\n- New.\n  More.\n\n## 1.1.0 - 2026-01-02\n\n- Old.\n"
)


def test_release_notes_are_the_section_of_the_version():
    assert notes("v1.2.0", PYPROJECT, CHANGELOG) == "- New.\n  More."


@pytest.mark.parametrize(
    "tag, changelog, message",
    [
        ("v1.1.0", CHANGELOG, "must be v1.2.0, the version in pyproject.toml, got v1.1.0"),
        ("1.2.0", CHANGELOG, "must be v1.2.0"),
        ("v1.2.0", CHANGELOG.replace("2026-11-22", "unreleased"), "its date, got 'unreleased'"),
        ("v1.2.0", CHANGELOG.replace("1.2.0", "1.2.00"), "no section 1.2.0"),
    ],
)
def test_no_release_without_its_version_and_date(tag, changelog, message):
    with pytest.raises(SystemExit, match=re.escape(message)):
        notes(tag, PYPROJECT, changelog)


def test_only_the_publishing_step_gets_the_key():
    text = (ROOT / ".github/workflows/publish.yml").read_text()
    assert text.count("secrets.") == 1
    publisher = (
        r"uses: Comfy-Org/publish-node-action@[0-9a-f]{40}\n\s+with:\n\s+personal_access_token"
    )
    assert re.search(publisher + r": \$\{\{ secrets\.REGISTRY_ACCESS_TOKEN \}\}", text)
    assert re.search(r"^permissions: \{\}$", text, re.M)
    assert text.count(": write") == 1
