"""The pack as people install it: the files of the registry's package, in a folder of any name."""

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from api import ask, get
from conftest import ENVIRONMENT, PACK
from headless import server as headless_server
from headless.client import run_graph
from headless.environment import Environment
from headless.graph import load_graph, set_inputs
from headless.server import users_server
from whole_graph import whole_graph

sys.path.append(str(PACK / "tests"))

from package import copy_package  # noqa: E402

SMALL = {"width": 128, "height": 128, "length": 65, "steps": 4}
SMALL |= {"preset": "custom", "dense_steps": 1}
FOLDERS = [
    "radial-attention",  # comfy node install, and ComfyUI-Manager from the registry
    "comfyui-radial-attention",  # git clone
    "comfyui-radial-attention-0.4.0",  # GitHub's archive
    "Radial Attention (copy) é",  # ComfyUI can't serve web files from a folder with such a name
]
ARCHIVE = FOLDERS[2]
LOAD = """
import asyncio, json, sys
sys.path.insert(0, sys.argv[1])
for optional in ("triton", "flash_attn", "flashinfer", "cudnn"):
    sys.modules[optional] = None
from comfy.cli_args import args
args.cpu = True
import nodes
for folder in sys.argv[2:]:
    assert asyncio.run(nodes.load_custom_node(folder)), folder
    classes = {name: node for name, node in nodes.NODE_CLASS_MAPPINGS.items() if "Radial" in name}
    assert all(node.__module__.startswith(folder.replace(".", "_x_")) for node in classes.values())
    print(json.dumps(sorted(classes)))
"""


@pytest.fixture(scope="module", autouse=True)
def a_git_repository():
    if not (PACK / ".git").exists():
        pytest.skip("no git repository, which lists the files of the package")


def test_its_requirements_install_nothing_into_a_comfyui():
    """Without a package index, pip only succeeds if all of them are already installed."""
    command = ["-m", "pip", "install", "--dry-run", "--no-index", "--quiet", "--report", "-"]
    command += ["--disable-pip-version-check", "-r", PACK / "requirements.txt"]
    done = subprocess.run([ENVIRONMENT.python, *command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["install"] == []


def test_every_comfyui_has_its_requirements():
    theirs = re.findall(r"^[\w-]+", (ENVIRONMENT.comfyui / "requirements.txt").read_text(), re.M)
    assert set((PACK / "requirements.txt").read_text().split()) <= set(theirs)


def test_comfyui_reads_our_metadata():
    from comfy_config.config_parser import extract_node_configuration

    config = extract_node_configuration(str(PACK))
    assert config.project.name == "radial-attention"
    assert config.project.supported_comfyui_version == ">=0.16.3"
    assert config.project.supported_os == ["OS Independent"]
    assert config.project.license.file == "LICENSE"
    assert config.tool_comfy.publisher_id and config.tool_comfy.icon.endswith("/assets/icon.png")


def test_loads_from_a_folder_of_any_name_without_kernel_libraries(tmp_path):
    """One after another in the same ComfyUI, as if installed twice: the last one counts."""
    for name in FOLDERS:
        copy_package(tmp_path / name)
    folders = [tmp_path / name for name in FOLDERS]
    command = [ENVIRONMENT.python, "-P", "-c", LOAD, ENVIRONMENT.comfyui, *folders]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lists = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    assert len(lists) == len(FOLDERS) and all(names == lists[0] for names in lists)
    assert "RadialAttentionPatch" in lists[0]


@pytest.mark.slow
def test_the_package_runs_from_a_read_only_folder(tmp_path, stand_ins, monkeypatch):
    theirs, name = tmp_path / "ComfyUI", ARCHIVE
    shutil.copytree(ENVIRONMENT.comfyui, theirs)
    pack = theirs / "custom_nodes" / name
    copy_package(pack)
    sizes = "workflows/headless/standin_sizes"
    shutil.copytree(PACK / sizes, theirs / "custom_nodes/standin_sizes")
    for folder, _, files in os.walk(pack, topdown=False):
        for path in (*(Path(folder, file) for file in files), Path(folder)):
            path.chmod(path.stat().st_mode & ~0o222)
    before, files_before = snapshot(pack), files_in(theirs)
    models = tmp_path / "models.yaml"
    folders = {path.name: path.name for path in stand_ins.iterdir() if path.is_dir()}
    models.write_text(json.dumps({"stand_ins": {"base_path": str(stand_ins), **folders}}))
    options = ["--cpu", "--extra-model-paths-config", models]
    monkeypatch.setattr(headless_server, "PACK", pack)  # so that it counts as installed
    with users_server(Environment(ENVIRONMENT.python, theirs), options) as server:
        graph = set_inputs(load_graph("wan21_t2v"), SMALL)
        result = asyncio.run(run_graph(server.url, graph, tmp_path, server.check))
        assert len(result.files) == 1 and result.summaries[0]["radial_calls"] > 0
        assert ask(server, whole_graph()).kind == "done"
        info = get(server, "/object_info/RadialAttentionPatch")["RadialAttentionPatch"]
        assert info["python_module"] == f"custom_nodes.{name}"
        assert "wan21_t2v" in get(server, "/api/workflow_templates")[name]
        assert get(server, f"/api/workflow_templates/{name}/wan21_t2v.json")["nodes"]
        page = f"{server.url}/extensions/{name}/docs/RadialAttentionPatch.md"
        assert "Radial" in headless_server._local.open(page).read().decode()
    # Compared, because the tests may run as root, which can write anywhere.
    assert snapshot(pack) == before
    new = {path.relative_to(theirs).parts[0] for path in files_in(theirs) - files_before}
    assert new <= {"output", "temp", "user"}  # ComfyUI's own


def files_in(folder: Path) -> set[Path]:
    """All files, without Python's __pycache__."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path for path in files if path.parent.name != "__pycache__"}


def snapshot(folder: Path) -> dict:
    """Path -> its bytes."""
    return {path: path.read_bytes() for path in files_in(folder)}
