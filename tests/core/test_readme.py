"""Figures in the README are those of benchmarks/results, however it says them.

A claim is what one paragraph, or one row of a table, has in it: figures with their units, in any
order and among any words.
"""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "README.md").read_text()
PARAGRAPHS = [" ".join(each.split()) for each in re.split(r"\n\s*\n", TEXT)]
ROWS = [line for line in TEXT.splitlines() if line.startswith("|")]


def says(place: str, claim: tuple[str, ...]) -> bool:
    """Whether a paragraph has all figures of a claim, none of them as a part of another."""
    return all(re.search(rf"(?<![\d.,]){re.escape(each)}(?!\d)", place) for each in claim)


def cases(name):
    return json.loads((ROOT / f"benchmarks/results/{name}.json").read_text())["cases"]


def planning():
    rows = {row["name"]: row for row in cases("planning-cpu")}
    longest = rows.pop("HunyuanVideo 509 f 720p")
    slowest = max(row["first_ms"] for row in rows.values())
    largest = max(row["plan_mib"] for row in rows.values())
    yield f"{longest['first_ms']:.0f} ms", f"{longest['median_ms']:.0f} ms"
    yield f"{longest['plan_mib']:.1f} MiB", f"{slowest:.0f} ms", f"{largest:.1f} MiB"
    yield f"{longest['kept_percent']} %", f"{longest['released_percent']} %"


def scaling():
    first, *_, last = cases("scaling-cpu")
    times = (last[key] / first[key] for key in ("kept_blocks", "radial_s", "dense_s"))
    yield f"{first['tokens']:,}", f"{last['tokens']:,} tokens", *(f"{x:.0f} times" for x in times)


COLUMNS = {
    "our kernel": ("triton",),
    "flash-attn-4": ("flash_attention",),
    "FlashInfer": ("flashinfer",),
    "cuDNN": ("cudnn",),
    "Flex": ("flex",),
    "ours for other cards": ("triton, portable kernel",),
    "full, ComfyUI's default": ("dense-sdpa-flash",),
    "full, fastest": ("dense-flash_attention", "dense-triton", "dense-sdpa-cudnn"),
}


def attention():
    """The table of milliseconds, and what is said of it."""
    gains = []
    for case in cases("attention-h100"):
        ms = {row["backend"]: row["ms"] for row in case["rows"]}
        best = [min(ms[name] for name in names) for names in COLUMNS.values()]
        figures = " | ".join(f"{x:,.1f}" if x < 10 else f"{x:,.0f}" for x in best)
        tokens, heads = f"{case['tokens']:,} tokens", f"{case['heads']} heads"
        yield case["name"], tokens, heads, f"| {case['density']:.1%} | {figures} |"
        gains.append((ms["dense-sdpa-flash"] / ms["triton"], best[-1] / ms["triton"]))
    default, fastest = zip(*gains, strict=True)
    yield f"{min(default):.1f} to {max(default):.0f} times", spread(fastest)


def spread(gains):
    return f"{min(gains):.1f} to {max(gains):.1f} times"


def seconds(x):
    return f"{x:,.0f}" if x >= 100 else f"{x:.1f}" if x >= 10 else f"{x:.2f}"


def end_to_end():
    """The table of passes and schedules, and what is said of it."""
    rows = cases("end_to_end-h100")
    for row in rows:
        times = " | ".join(seconds(row[f"{key}_s"]) for key in ("dense", "dense_fastest", "radial"))
        schedule = " | ".join(seconds(row[f"schedule_{key}_s"]) for key in ("dense", "radial"))
        gain = row["schedule_dense_s"] / row["schedule_radial_s"]
        yield (f"| {times} | {schedule} | {gain:.1f} |",)
        assert row["radial_s"] < row["dense_fastest_s"] < row["dense_s"]
        assert row["peak_gib_radial"] <= 1.01 * row["peak_gib_dense"]
    gains = [row["schedule_dense_s"] / row["schedule_radial_s"] for row in rows]
    with_last = [row["schedule_dense_s"] / row["schedule_with_last_step_s"] for row in rows]
    yield spread(gains), spread(with_last)
    smallest = min(row["peak_gib_radial"] / row["peak_gib_dense"] for row in rows)
    assert 0.86 < smallest < 0.88
    yield ("up to an eighth below",)
    wan = next(row for row in rows if row["name"] == "wan2.1-14b-69f-768p")["profile"]
    spent = wan["radial"]["seconds"]
    shares = [100 * spent[kind] / sum(spent.values()) for kind in ("attention", "linear layers")]
    python = f"{100 * wan['host']['share_of_forward']:.1f} %"
    yield *(f"{x:.0f} %" for x in (*shares, 100 - sum(shares))), python
    before = {row["name"]: row for row in cases("end_to_end-unfused-h100")}
    for row in rows:
        if row["name"] in before and row["name"] != "wan2.1-1.3b-81f-480p":
            yield f"{before[row['name']]['radial_s']:.2f}", f"{row['radial_s']:.2f} s"


FIRST_SCREEN = {
    "wan2.1-14b-81f-720p": "Wan 2.1 14B, 81 frames, 720p",
    "hunyuan-117f-768p": "HunyuanVideo, 117 frames, 768p",
    "hunyuan-509f-720p": "HunyuanVideo, 509 frames, 720p",
    "mochi-667f-480p": "Mochi, 667 frames, 480p",
}


def first_screen():
    """The first table: minutes of the whole video, the node as it comes."""
    rows = {row["name"]: row for row in cases("end_to_end-h100")}
    for name, title in FIRST_SCREEN.items():
        dense, radial = (
            rows[name][f"schedule_{key}_s"] / 60 for key in ("dense", "with_last_step")
        )
        yield f"| {title} |", f"| {dense:.0f} min | {radial:.0f} min | {dense / radial:.1f} |"


def training():
    """The table of training steps, and what is said of it."""
    rows = cases("training-h100")
    for row in rows:
        dense, radial = (
            sum(row["attention"][way][f"{x}_ms"] for x in ("forward", "backward"))
            for way in ("dense", "radial")
        )
        attention = f"{seconds(dense)} | {seconds(radial)} | {dense / radial:.1f}"
        step = f"{seconds(row['dense_s'])} | {seconds(row['radial_s'])}"
        step += f" | {row['dense_s'] / row['radial_s']:.1f}"
        kept = f"{row['attention']['density']:.1%}"
        yield (f"| {row['tokens']:,} | {kept} | {attention} | {step} |",)
        assert row["attention"]["dense_kernel"] == "flash-attn-4"
        assert abs(row["peak_gib_dense"] - row["peak_gib_radial"]) <= 0.01
        together, measured = row.get("put_together"), row["note"] is None or "blocks" in row["note"]
        if together and measured:
            assert all(abs(together[k] / row[k] - 1) < 0.025 for k in ("dense_s", "radial_s"))
    named = {row["name"]: row for row in rows}
    row = named["wan2.1-1.3b-161f-480p"]
    hours = (f"{1200 * row[f'{way}_s'] / 3600:.1f}" for way in ("radial", "dense"))
    times = (f"{row[f'{way}_s']:.1f} s" for way in ("radial", "dense"))
    yield *times, f"{row['peak_gib_radial']} GiB", *hours
    yield (f"{named['wan2.1-14b-161f-768p']['peak_gib_radial']:.0f} GiB",)
    yield (spread([row["comfyui_s"] / row["dense_s"] for row in rows if "comfyui_s" in row]),)


def quality():
    """What the lab's model says."""
    found = json.loads((ROOT / "benchmarks/results/quality-compare-h100.json").read_text())
    rows, dense = {row["name"]: row for row in found["cases"]}, found["sizes"]["lab"]
    none, quarter, half = (
        rows[f"radial decay 0.2 sink 1 block 128; dense steps {n}+0, blocks 0"] for n in (0, 7, 15)
    )
    yield f"{none['psnr']:.1f} dB", f"{quarter['psnr']:.1f}", f"{half['psnr']:.1f}"
    yield tuple(f"{row['kept_flops']:.2f}" for row in (none, quarter, half))
    names = ("radial decay 0.2 sink 1", "spatial sink 0 keep 59", "sliding sink 0 keep 59")
    masks = [
        rows[f"{name} block 64; dense steps 0+0, blocks 0"]
        for name in (*names, "tile keep 59", "temporal sink 0 keep 59")
    ]
    assert all(round(100 * mask["density"]) == 46 for mask in masks)
    radial, *others = (f"{mask['val_loss'] - dense['dense_val_loss']:.4f}" for mask in masks)
    assert radial < min(others)
    titles = ("spatial", "sliding window", "tile window", "temporal")
    yield "46 %", radial, *(f"{a} {b}" for a, b in zip(titles, others, strict=True))
    longer = {row["name"]: f"{row['val_loss']:.3f}" for row in cases("quality-extend-h100")}
    ways = ("untouched, dense", "untouched, radial", "dense-tuned", "radial-tuned")
    yield tuple(longer[f"4x, {way}"] for way in ways)
    training = json.loads((ROOT / "benchmarks/results/quality-train-h100.json").read_text())
    yield f"{training['seconds'] / 60:.0f} minutes", f"{training['parameters'] / 1e6:.0f} M"


def watching():
    (report,) = cases("report-h100")
    yield (f"{100 * report['cost']:.1f} %",)
    wan, hunyuan = cases("probe-h100")
    yield f"{wan['ms']:.0f} ms", f"{hunyuan['ms']:.0f} ms", str(wan["extra_mib"])
    yield (f"{hunyuan['extra_mib']} MiB",)
    for case in (wan, hunyuan):
        yield f"{case['error']:.4f}", f"{case['error_all_tokens']:.4f}"
    rows = cases("preview-cpu")
    times = (max(row[key] for row in rows) for key in ("median_ms", "most_ms"))
    yield *(f"{x:.0f} ms" for x in times), f"{max(row['frames'] for row in rows):,} frames"


def crossover():
    rows = cases("crossover-h100")
    slower = [row for row in rows if row["speedup"] < 1]
    assert all(row["density"] > 0.95 for row in slower)
    yield ("95 %",)


@pytest.mark.parametrize(
    "claim",
    [
        *first_screen(),
        *planning(),
        *scaling(),
        *attention(),
        *end_to_end(),
        *training(),
        *quality(),
        *watching(),
        *crossover(),
    ],
    ids=", ".join,
)
def test_the_readme_says_what_was_measured(claim):
    assert any(says(place, claim) for place in (*ROWS, *PARAGRAPHS))


LINKS = sorted(set(re.findall(r"\]\(([^)#:]+)\)", TEXT)))


@pytest.mark.parametrize("link", LINKS)
def test_its_links_lead_to_files(link):
    assert (ROOT / link).exists()


COMMANDS = sorted(set(re.findall(r"^python ([\w/]+\.py)", TEXT, re.M)))


def test_its_commands_are_there():
    assert {"workflows/run.py", "tests/run.py"} <= {*COMMANDS}
    assert all((ROOT / command).is_file() for command in COMMANDS)
