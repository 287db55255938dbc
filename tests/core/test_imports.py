import ast
import sys
from pathlib import Path

import pytest

CORE = Path(__file__).parents[2] / "radial_core"
ALLOWED = {"torch", "einops"}


def imported_by(file):
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module


@pytest.mark.parametrize("file", sorted(CORE.rglob("*.py")), ids=lambda f: f.name)
def test_the_core_imports_torch_einops_and_the_standard_library(file):
    roots = {name.split(".")[0] for name in imported_by(file)}
    assert roots <= ALLOWED | set(sys.stdlib_module_names)
