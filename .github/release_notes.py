"""Prints a version's section of CHANGELOG.md, for the release and the registry.

python .github/release_notes.py v0.4.0

Refuses a tag that is not the version in pyproject.toml, and a version that has no date yet.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def version(pyproject: str) -> str:
    return re.search(r'^version = "(.+)"$', pyproject, re.M)[1]


def notes(tag: str, pyproject: str, changelog: str) -> str:
    """The section's text without its heading. Raises SystemExit if the tag or the date is wrong."""
    wanted = version(pyproject)
    if tag != f"v{wanted}":
        raise SystemExit(f"The tag must be v{wanted}, the version in pyproject.toml, got {tag}")
    for section in re.split(r"^## ", changelog, flags=re.M)[1:]:
        heading, _, text = section.partition("\n")
        number, _, date = heading.partition(" - ")
        if number == wanted:
            if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", date):
                raise SystemExit(f"CHANGELOG.md: {wanted} must have its date, got {date!r}")
            return text.strip()
    raise SystemExit(f"CHANGELOG.md has no section {wanted}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    pyproject, changelog = ((ROOT / n).read_text() for n in ("pyproject.toml", "CHANGELOG.md"))
    print(notes(sys.argv[1], pyproject, changelog))
