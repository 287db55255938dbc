"""Every figure in the README stands in benchmarks/results."""

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = " ".join((ROOT / "README.md").read_text().split())


def cases(name):
    return json.loads((ROOT / f"benchmarks/results/{name}.json").read_text())["cases"]


def planning():
    rows = {row["name"]: row for row in cases("planning-cpu")}
    longest = rows.pop("HunyuanVideo 509 f 720p")
    slowest = max(row["first_ms"] for row in rows.values())
    largest = max(row["plan_mib"] for row in rows.values())
    yield f"takes {longest['first_ms']:.0f} ms the first time, {longest['median_ms']:.0f} ms after"
    yield f"and {longest['plan_mib']:.1f} MiB; at most {slowest:.0f} ms and {largest:.1f} MiB"
    yield f"keeps {longest['kept_percent']} % of the map, the released code's mask "
    yield f"mask {longest['released_percent']} %"


def scaling():
    first, *_, last = cases("scaling-cpu")
    blocks, radial, dense = (
        last[key] / first[key] for key in ("kept_blocks", "radial_s", "dense_s")
    )
    yield f"From {first['tokens']:,} to {last['tokens']:,} tokens"
    yield f"the kept blocks grow {blocks:.0f} times"
    yield f"the time of radial attention {radial:.0f} times"
    yield f"that of dense attention {dense:.0f} times"


@pytest.mark.parametrize("claim", [*planning(), *scaling()])
def test_the_readme_says_what_was_measured(claim):
    assert claim in README
