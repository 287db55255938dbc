import ast
import sys
from pathlib import Path

import pytest

CORE = Path(__file__).parents[2] / "radial_core"
ALLOWED = {"torch", "einops"}


def imported_by(file):
    """The top-level names that a file imports; for relative imports the number of levels.

    Backends may import anything inside functions, when it is first used.
    """
    nodes = [ast.parse(file.read_text())]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.FunctionDef) and file.parent.name == "backends":
            continue
        nodes.extend(ast.iter_child_nodes(node))
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.level or node.module.split(".")[0]


@pytest.mark.parametrize("file", sorted(CORE.rglob("*.py")), ids=lambda f: f.name)
def test_the_core_only_imports_torch_einops_and_the_standard_library(file):
    within = set(range(1, len(file.relative_to(CORE).parts) + 1))
    kernel = {"triton"} if file.parent.name == "kernels" else set()  # imported when first used
    assert set(imported_by(file)) <= kernel | ALLOWED | set(sys.stdlib_module_names) | within
