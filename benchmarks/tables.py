"""Writes the tables of the docs from the files in benchmarks/results.

    python benchmarks/tables.py            rewrites them
    python benchmarks/tables.py --check    fails if one is not current

A table stands in a Markdown file between two comments:

    <!-- table: NAME -->
    <!-- end -->

NAME is one of the functions in tables_*.py. tests/comfy/support_table.py writes those of ELSEWHERE.
Needs the standard library only.
"""

import argparse
import re
from pathlib import Path

import tables_cost
import tables_front
import tables_lists
import tables_multi_gpu
import tables_precision
import tables_quality
import tables_speed
from tables_format import ROOT

REGION = re.compile(r"(<!-- table: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
MODULES = (
    *(tables_speed, tables_precision, tables_cost),
    *(tables_quality, tables_lists, tables_front, tables_multi_gpu),
)
TABLES = {table.__name__: table for module in MODULES for table in module.TABLES}

ELSEWHERE = ("models", "families")


def documents() -> list[Path]:
    """The Markdown files that may hold tables."""
    folders = (".", "docs", "benchmarks", "benchmarks/quality", "benchmarks/results/mine")
    return sorted(file for folder in folders for file in (ROOT / folder).glob("*.md"))


def with_tables(text: str) -> str:
    """The text of a Markdown file with its tables as the results have them."""

    def current(found) -> str:
        name = found[2]
        return found[0] if name in ELSEWHERE else f"{found[1]}{TABLES[name]()}\n{found[3]}"

    return REGION.sub(current, text)


def outdated() -> dict[Path, str]:
    """The files whose tables are not current, and what they should be."""
    texts = {file: file.read_text(encoding="utf-8") for file in documents()}
    new = {file: with_tables(text) for file, text in texts.items()}
    return {file: text for file, text in new.items() if text != texts[file]}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing, fail if outdated")
    check = parser.parse_args().check
    found = outdated()
    for file, text in found.items():
        print(f"{'Outdated' if check else 'Written'}: {file.relative_to(ROOT)}")
        if not check:
            file.write_text(text, encoding="utf-8")
    if check and found:
        raise SystemExit("Run python benchmarks/tables.py")


if __name__ == "__main__":
    main()
