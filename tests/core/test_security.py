"""The pack's code does not run strings, unpickle, use the network, start programs or write files.

Except for several GPUs (nodes/cards/): those have processes, which meet over the loopback
interface.

tests/comfy/test_install.py checks that it leaves its folders unchanged while it runs.
"""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Loaded by ComfyUI. The scripts in workflows/ only run by hand, and talk to the server they start.
PACK = [
    ROOT / "__init__.py",
    *sorted((ROOT / "nodes").rglob("*.py")),
    *sorted((ROOT / "radial_core").rglob("*.py")),
]
BY_HAND = sorted((ROOT / "workflows").rglob("*.py"))
SCRIPTS = sorted((ROOT / "nodes/web").rglob("*.js"))
PATHS = {"ids": lambda file: str(file.relative_to(ROOT))}

LIBRARIES = {"PIL", "comfy", "comfy_api", "einops", "numpy", "torch", "triton"}
KERNELS = {"cudnn", "flash_attn", "flashinfer", "sageattention", "spas_sage_attn"}
# Standard modules that only compute, and don't open sockets, start programs or unpickle.
HARMLESS = set(
    "abc array base64 bisect collections collections.abc concurrent.futures contextlib copy "
    "dataclasses datetime dis enum functools hashlib heapq importlib importlib.metadata "
    "importlib.util inspect io itertools json logging math operator os pathlib random re reprlib "
    "shutil statistics string sys textwrap threading time traceback types typing weakref "
    "zlib".split()
)
UNPICKLES = {"cPickle", "cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve"}
RUNS_STRINGS = {"__import__", "compile", "eval", "exec"}
# Attributes of any object. `replace` is left out because it is a method of strings too.
WRITES = set(
    "chmod copy2 copyfile copytree hardlink_to link makedirs mkdir move remove removedirs rename "
    "renames rmdir rmtree save savefig symlink symlink_to touch unlink write_bytes write_text "
    "writelines".split()
)
STARTS = set(
    "Popen check_call check_output execl execle execlp execv execve execvp fork forkpty popen "
    "posix_spawn spawnl spawnv startfile system".split()
)
# The tiles of a kernel, measured once for a GPU, are saved in the user's cache folder.
TUNING = "radial_core/kernels/tuning_cache.py"
# Hooks of modules are removed by a method with that name.
TRAINING, BLOCKS = "nodes/training/prepare.py", "nodes/hook/block_hooks.py"
PROBE, SPLIT = "nodes/probing/hook.py", "nodes/cards/split_pass.py"
# Other cards have processes of their own. ComfyUI's process starts them, and they hand each other
# objects over a pipe that no other process has. The cards meet by a file in a new folder.
CARDS = {
    "nodes/cards/cargo.py": {"pickle"},
    "nodes/cards/process.py": {"multiprocessing", "subprocess"},
    "nodes/cards/start.py": {"multiprocessing.connection"},
    "nodes/cards/team.py": set(
        "atexit multiprocessing.connection multiprocessing.reduction queue tempfile".split()
    ),
    "nodes/cards/worker.py": {"multiprocessing.connection", "queue"},
}
ALLOWED = {
    (TUNING, "mkdir"),
    (TUNING, "write_text"),
    (TRAINING, "remove"),
    (BLOCKS, "remove"),
    (PROBE, "remove"),
    (SPLIT, "remove"),
    ("nodes/cards/process.py", "Popen"),
}


def imports(tree: ast.AST):
    """(module, names imported from it) for each absolute import."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, set()) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module, {alias.name for alias in node.names}


def faults(source: str, file: str, by_hand: bool = False) -> list[str]:
    """The forbidden things that a file does. file: its path in the pack."""
    tree, result = ast.parse(source), []
    for module, names in imports(tree):
        top = module.split(".")[0]
        if module in CARDS.get(file, ()):
            continue
        if UNPICKLES & {top, *names}:
            result.append(f"imports {module}")
        if by_hand:
            continue
        kernel = top in KERNELS and file.startswith("radial_core/backends/")
        if top not in LIBRARIES and module not in HARMLESS and not kernel:
            result.append(f"imports {module}")
        if module in ("os", "shutil"):
            result += [f"imports {name} of {module}" for name in sorted(names & (WRITES | STARTS))]
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in RUNS_STRINGS:
            result.append(node.id)
        if isinstance(node, ast.Call):
            result += call_faults(node, file, by_hand)
    return result


def call_faults(call: ast.Call, file: str, by_hand: bool):
    name = getattr(call.func, "attr", None) or getattr(call.func, "id", None)
    if name == "load" and "torch" in ast.unparse(call.func):
        yield "torch.load"
    if by_hand:
        return
    if name == "import_module" and not ast.unparse(call.args[0]).startswith(("'.", "f'.")):
        yield "imports a module that is not its own by name"
    if name in WRITES | STARTS and (file, name) not in ALLOWED:
        yield f"calls {name}"
    if name in ("open", "fdopen") and not opens_to_read(call):
        yield "opens a file to write"


def opens_to_read(call: ast.Call) -> bool:
    """For open(path, mode) and path.open(mode). The mode must be a literal."""
    at = 1 if isinstance(call.func, ast.Name) else 0
    modes = [k.value for k in call.keywords if k.arg == "mode"] + call.args[at : at + 1]
    return all(isinstance(m, ast.Constant) and not set(str(m.value)) & set("wax+") for m in modes)


@pytest.mark.parametrize("file", PACK, **PATHS)
def test_the_pack_only_computes(file):
    assert faults(file.read_text(), file.relative_to(ROOT).as_posix()) == []


@pytest.mark.parametrize("file", BY_HAND, **PATHS)
def test_scripts_that_run_by_hand_run_no_strings_and_unpickle_nothing(file):
    assert faults(file.read_text(), file.relative_to(ROOT).as_posix(), by_hand=True) == []


@pytest.mark.parametrize(
    "source",
    [
        "eval(x)",
        "f = exec",
        "compile(x, '', 'exec')",
        "__import__(x)",
        "import pickle",
        "from torch import load, pickle",
        "torch.load(x)",
        "import requests",
        "import urllib.request",
        "from http import client",
        "import socket as s",
        "import aiohttp",
        "def f(): import subprocess",
        "import os; os.system(x)",
        "from os import system",
        "import importlib; importlib.import_module(x)",
        "open(x, 'w')",
        "open(x, mode='ab')",
        "open(x, mode)",
        "path.open('w')",
        "path.write_text(x)",
        "path.unlink()",
        "shutil.rmtree(x)",
        "picture.save(path)",
        "import flashinfer",
    ],
)
def test_faults_are_detected(source):
    assert faults(source, "nodes/x.py")


def test_harmless_code_is_accepted():
    fine = (
        "model.eval(); re.compile(x); torch.compile(x); open(x); path.open('rb'); s.replace(x, y)"
    )
    assert faults(fine, "nodes/x.py") == []
    assert faults("path.mkdir()\npath.write_text(x)", TUNING) == []
    assert faults("import flashinfer", "radial_core/backends/x.py") == []


@pytest.mark.parametrize("file", SCRIPTS, **PATHS)
def test_scripts_of_the_page(file):
    """They show our nodes' text as text, without code or files from other places."""
    source = file.read_text()
    assert not re.findall(r"\beval\b|\bFunction\(|innerHTML|outerHTML|insertAdjacentHTML", source)
    assert not re.findall(r"https?:|document\.write|\bfetch\(|XMLHttpRequest|WebSocket", source)
    imported = re.findall(r'\bfrom "(.+?)"', source)
    assert len(imported) == len(re.findall(r"\bimport\b", source))
    assert {path.replace("../", "") for path in imported} <= {"scripts/api.js", "scripts/app.js"}
