"""What the docs lead to is there: links, pictures, commands, help pages, templates, messages."""

import ast
import re
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import tables  # noqa: E402

HELP = ROOT / "nodes/web/docs"
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = sorted({*tables.documents(), *HELP.glob("*.md")})
LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@cache
def prose(page: Path) -> str:
    """A page without its code blocks."""
    return CODE.sub("", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """The anchors of the headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}


def broken_links(page: Path) -> list[str]:
    found = []
    for link in LINK.findall(prose(page)):
        if re.match(r"https?://", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or anchor and anchor not in anchors(target):
            found.append(link)
    return found


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    assert broken_links(page) == []


def test_a_broken_link_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# A page\n[a](#a-page) [b](#b) [c](page.md#a-page) [d](d.md) [e](https://e.e)")
    assert broken_links(page) == ["#b", "d.md"]


@pytest.mark.parametrize("page", sorted(HELP.glob("*.md")), ids=name_of)
def test_a_help_page_needs_no_other_folder(page):
    """ComfyUI serves nothing else of the pack."""
    links = [link for link in LINK.findall(prose(page)) if not link.startswith("https://")]
    assert all("/" not in link for link in links)


def test_every_node_has_a_help_page_that_the_readme_links_to():
    sources = (file.read_text(encoding="utf-8") for file in (ROOT / "nodes").rglob("*.py"))
    nodes = {node for text in sources for node in re.findall(r'node_id="(\w+)"', text)}
    assert nodes == {page.stem for page in HELP.glob("*.md")}
    assert all(f"(nodes/web/docs/{node}.md)" in README for node in nodes)


def test_the_readme_names_every_template_and_no_other():
    templates = {file.stem for file in (ROOT / "workflows").glob("*.json")}
    named = set(re.findall(r"`(\w+)`", README))
    assert templates <= named
    prefixes = {template.split("_")[0] for template in templates if template[-1] == "v"}
    assert {name for name in named if name.split("_")[0] in prefixes} <= templates


def test_the_readme_takes_three_minutes():
    assert len(README.splitlines()) <= 150


def test_the_two_commands_are_there():
    commands = re.findall(r"^python ([\w/]+\.py.*)$", README, re.MULTILINE)
    assert {"workflows/run.py wan21_t2v", "tests/run.py"} <= set(commands)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_run_files_that_are_there(page):
    scripts = re.findall(r"^python ([\w/]+\.py)", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert all((ROOT / script).is_file() for script in scripts)


def test_tables_are_current():
    assert list(tables.outdated()) == [], "run python benchmarks/tables.py"


def test_an_outdated_table_is_found():
    text = "<!-- table: speed -->\n| old |\n<!-- end -->"
    assert (
        tables.with_tables(text)
        == f"<!-- table: speed -->\n{tables.TABLES['speed']()}\n<!-- end -->"
    )


def texts_of_the_code() -> str:
    """All strings in the code of the pack, one a line; placeholders of f-strings left out."""
    files = [file for folder in ("nodes", "radial_core") for file in (ROOT / folder).rglob("*.py")]
    trees = (ast.parse(file.read_text(encoding="utf-8")) for file in files)
    constants = (
        node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant)
    )
    return "\n".join(node.value for node in constants if isinstance(node.value, str))


def test_quoted_messages_are_those_that_the_code_prints():
    """In the first column of the tables of reasons and messages."""
    texts = texts_of_the_code()
    page = (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (.*?`.*?) \|", page, re.MULTILINE)
    quotes = [quote for row in rows for quote in re.findall(r"`([^`]+)`", row) if " " in quote]
    assert len(quotes) > 10
    parts = [part.strip(" ,.") for quote in quotes for part in quote.split("...")]
    assert [part for part in parts if part not in texts] == []
