"""Writes the tables of supported models, from the families and the zoo, into README and docs.

    python tests/comfy/support_table.py

It needs the Python of the tests, with ComfyUI's. tests/comfy/test_support_table.py fails if a table
is not current. Templates are found by the files that they load.
"""

import json
import re
from pathlib import Path

import conftest
import zoo
from zoo.models import MODELS

registry = conftest.pack_module("nodes.families.registry")
listed = conftest.pack_module("nodes.families.node_texts").listed

ROOT = Path(__file__).resolve().parents[2]
README, PAGE = ROOT / "README.md", ROOT / "docs/models.md"
CASES = {case.name: case for case in zoo.CASES}


def family_of(row: str):
    """The family of a row: that whose name is the longest in it."""
    families = (family for family in registry.FAMILIES if family.name in row)
    return max(families, key=lambda family: len(family.name))


def is_in(comfyui: Path, case) -> bool:
    """Whether ComfyUI in a folder has what a case needs."""
    has_kind = f"\nclass {case.kind}(" in (comfyui / "comfy/model_base.py").read_text("utf-8")
    module = comfyui / case.needs.replace(".", "/")
    return has_kind and (module.is_dir() or module.with_suffix(".py").is_file())


def versions(cases) -> str:
    """The releases that have all of some cases, of those that our tests run."""
    found = []
    for release in (conftest.OLDEST, conftest.NEWEST):
        comfyui = conftest.ensure_environment(release).comfyui
        if all(is_in(comfyui, case) for case in cases):
            found.append(release.version)
    return ", ".join(found)


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def row_of_file(name: str) -> str | None:
    """The row whose name a checkpoint's begins with: wan2.1_t2v_14B -> "Wan 2.1"."""
    rows = (row for row in MODELS if _letters(name).startswith(_letters(row)))
    return max(rows, key=len, default=None)


MODEL_LOADERS = ("UNETLoader", "CheckpointLoaderSimple")


def templates() -> dict[str, list[str]]:
    """Row -> the templates that load one of its models."""
    found = {row: [] for row in MODELS}
    for file in sorted((ROOT / "workflows").glob("*.json")):
        nodes = json.loads(file.read_text(encoding="utf-8"))["nodes"]
        loaders = (node for node in nodes if node["type"] in MODEL_LOADERS)
        loaded = {row_of_file(node["widgets_values"][0]) for node in loaders}
        assert loaded and None not in loaded, f"{file.name} loads none of our models"
        for row in loaded:
            found[row].append(file.stem)
    return found


def _table(*lines) -> str:
    head, *rows = lines
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *rows))


def _together(models) -> str:
    """ "text to video, image to video, VACE" -> "text and image to video, VACE"."""
    return re.sub(r"text to video, (?:A14B )?image to video", "text and image to video", models)


def models_short(elsewhere: str) -> str:
    """The README's. elsewhere: the rest of it, which names the templates that are not in here."""
    rows = {}
    for row, stems in templates().items():
        names, own = rows.setdefault(_together(", ".join(MODELS[row])), ([], []))
        names.append(row)
        own += [f"`{stem}`" for stem in stems if f"`{stem}`" not in elsewhere]
    return _table(
        ["family", "models", "templates"],
        *([", ".join(names), models, ", ".join(own)] for models, (names, own) in rows.items()),
    )


def models() -> str:
    lines = []
    for row, labels in MODELS.items():
        for label, names in labels.items():
            cases = [CASES[name] for name in names]
            kinds = ", ".join(dict.fromkeys(f"`{case.kind}`" for case in cases))
            lines.append([row, label, kinds, versions(cases), "; ".join(names)])
    head = ["family", "model", "ComfyUI's model class", "ComfyUI", "what the tests run"]
    return _table(head, *lines)


def _head_dims(family) -> str:
    sizes = {}
    for name, entry in family.catalog.items():
        sizes.setdefault(entry.size.head_dim, []).append(name)
    if len(sizes) == 1:
        return str(*sizes)
    return ", ".join(f"{dim} ({listed(names)})" for dim, names in sizes.items())


def _fused(family) -> str:
    forms = conftest.pack_module("nodes.fused_blocks")._forms_of(family)
    return ", ".join(f"`{block}`" for (_, block), form in forms.items() if form.part is None)


def _training(family) -> str:
    rows = [row for row in MODELS if family_of(row) is family]
    cases = [CASES[name] for row in rows for names in MODELS[row].values() for name in names]
    typical = next(case for case in cases if case.typical)
    if not family.projections or not typical.trains:
        return f"not in ComfyUI {conftest.NEWEST.version}"
    return ", ".join(f"`{x}`" for x in dict.fromkeys(sum(family.projections.values(), ())))


def families() -> str:
    by_row, lines = templates(), []
    for family in registry.FAMILIES:
        stems = (stem for row in by_row if family_of(row) is family for stem in by_row[row])
        lines.append(
            [
                family.name,
                ", ".join(f"`{name.rpartition('.')[2]}`" for name in family.classes),
                _head_dims(family),
                ", ".join(f"{preset.name} ({preset.decay:g})" for preset in family.presets),
                _fused(family),
                _training(family),
                ", ".join(f"`{stem}`" for stem in dict.fromkeys(stems)),
            ]
        )
    head = "family", "network classes", "head_dim", "own values (decay)", "fused blocks"
    return _table([*head, "LoRA layers", "templates"], *lines)


TABLES = {"models": models, "families": families}
REGION = re.compile(r"(<!-- table: (models|families) -->\n).*?(<!-- end -->)", re.DOTALL)


def with_tables(file: Path) -> str:
    """The text of a file with its tables as the code has them."""

    def current(found) -> str:
        if file == README:
            elsewhere = found.string[: found.start()] + found.string[found.end() :]
            return f"{found[1]}{models_short(elsewhere)}\n{found[3]}"
        return f"{found[1]}{TABLES[found[2]]()}\n{found[3]}"

    return REGION.sub(current, file.read_text(encoding="utf-8"))


if __name__ == "__main__":
    for file in (README, PAGE):
        file.write_text(with_tables(file), encoding="utf-8")
        print(f"Written: {file.relative_to(ROOT)}")
