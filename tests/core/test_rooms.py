"""The rooms of nodes/: what a file may import of the others, read from the code."""

import ast
from pathlib import Path

import pytest

NODES = Path(__file__).parents[2] / "nodes"
# From below. A file may import from its own room and from the floors below. Rooms of one floor may
# import each other one way only.
FLOORS = (
    {"comfyui", "run"},
    {"families", "inputs"},
    {"fused_blocks"},
    {"hook"},
    {"training", "probing", "drawing", "forecast", "cards"},
)
TOP = len(FLOORS)  # the nodes themselves
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


def files() -> dict[str, Path]:
    """Dotted name in nodes/ -> file; "" is nodes/ itself."""
    found = {}
    for file in NODES.rglob("*.py"):
        parts = file.relative_to(NODES).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


def imports(name: str, source: str, is_package: bool) -> set[str]:
    """The files of nodes/ that a file imports, also by `features.load`; their dotted names."""
    package = name.split(".") if is_package and name else name.split(".")[:-1]
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and 0 < node.level <= len(package) + 1:
            base = package[: len(package) - node.level + 1]
            module = [*base, *(node.module or "").split(".")]
            module = ".".join(part for part in module if part)
            for alias in node.names:
                longer = f"{module}.{alias.name}".lstrip(".")
                found.add(longer if longer in FILES else module)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "features.load":
            asked = ast.literal_eval(node.args[1]) if isinstance(node.args[1], ast.Constant) else ""
            found.add(asked.lstrip("."))
    return found & FILES.keys() - {name, ""}


def room(name: str) -> str | None:
    """None for what stands at the top of nodes/."""
    first = name.split(".")[0]
    return first if first and (NODES / first).is_dir() else None


FILES = files()
IMPORTS = {
    name: imports(name, file.read_text(encoding="utf-8"), file.name == "__init__.py")
    for name, file in FILES.items()
}


def runs_up(name: str, imported: str) -> bool:
    """Whether an import leads to a room on a floor above."""
    return FLOOR_OF.get(room(imported), TOP) > FLOOR_OF.get(room(name), TOP)


def circle(arrows: dict[str, set[str]]) -> list[str]:
    """A circle in a graph, from one name to itself again; empty if there is none."""
    done = set()

    def visit(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return []
        for imported in sorted(arrows.get(name, ())):
            if found := visit(imported, [*path, name]):
                return found
        done.add(name)
        return []

    return next((found for name in sorted(arrows) if (found := visit(name, []))), [])


def test_every_room_has_its_floor():
    rooms = {room(name) for name in FILES} - {None}
    assert rooms == set(FLOOR_OF)


@pytest.mark.parametrize("name", sorted(set(FILES) - {""}))
def test_no_import_runs_back_up(name):
    assert [other for other in sorted(IMPORTS[name]) if runs_up(name, other)] == []


def test_no_circle_between_files():
    assert circle(IMPORTS) == []


def test_no_circle_between_rooms():
    arrows = {}
    for name, imported in IMPORTS.items():
        others = {room(other) for other in imported} - {room(name), None}
        arrows.setdefault(room(name) or "", set()).update(others)
    assert circle(arrows) == []


def test_a_node_imports_no_other_node():
    at_the_top = {name for name in FILES if name and room(name) is None}
    assert [
        (name, IMPORTS[name] & at_the_top) for name in at_the_top if IMPORTS[name] & at_the_top
    ] == []


def test_at_the_top_there_is_a_node_in_every_file():
    (table,) = (
        node for node in ast.parse(FILES[""].read_text()).body if isinstance(node, ast.Assign)
    )
    table = ast.literal_eval(table.value)
    at_the_top = {name for name in FILES if name and room(name) is None}
    assert {file.lstrip(".") for file in table.values()} == at_the_top
    for class_name, file in table.items():
        body = ast.parse(FILES[file.lstrip(".")].read_text(encoding="utf-8")).body
        bases = {
            c.name: [ast.unparse(b) for b in c.bases] for c in body if isinstance(c, ast.ClassDef)
        }
        assert bases.get(class_name) == ["io.ComfyNode"]


@pytest.mark.parametrize(
    "name, source, expected",
    [
        ("run.record", "from ..hook.decision import decide", {"hook.decision"}),
        ("run.record", "from ..hook import decision", {"hook.decision"}),
        ("run.record", "from . import saving", {"run.saving"}),
        ("patch", "def f():\n    from .run import record", {"run.record"}),
        ("hook.override", "features.load('it', '.training.prepare')", {"training.prepare"}),
        ("run.record", "from ...radial_core import Plan\nimport torch", set()),
    ],
)
def test_imports_are_found(name, source, expected):
    assert imports(name, source, False) == expected


def test_faults_would_be_found():
    assert runs_up("run.record", "families.registry")
    assert not runs_up("hook.override", "run.record")
    assert runs_up("drawing.report", "patch")
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
