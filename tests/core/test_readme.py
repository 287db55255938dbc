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
    yield f"| one attention call, ms | kept | {' | '.join(COLUMNS)} |"
    gains = []
    for case in cases("attention-h100"):
        ms = {row["backend"]: row["ms"] for row in case["rows"]}
        best = [min(ms[name] for name in names) for names in COLUMNS.values()]
        figures = " | ".join(f"{x:,.1f}" if x < 10 else f"{x:,.0f}" for x in best)
        name = f"{case['name']}: {case['tokens']:,} tokens, {case['heads']} heads"
        yield f"| {name} | {case['density']:.1%} | {figures} |"
        gains.append((ms["dense-sdpa-flash"] / ms["triton"], best[-1] / ms["triton"]))
    default, fastest = zip(*gains, strict=True)
    yield f"{min(default):.1f} to {max(default):.0f} times as fast as full attention in ComfyUI's"
    yield f"default, {min(fastest):.1f} to {max(fastest):.1f} times as fast as the fastest full"


def seconds(x):
    return f"{x:,.0f}" if x >= 100 else f"{x:.1f}" if x >= 10 else f"{x:.2f}"


def end_to_end():
    """The table of passes and schedules, and what is said of it."""
    rows = cases("end_to_end-h100")
    for row in rows:
        times = " | ".join(seconds(row[f"{key}_s"]) for key in ("dense", "dense_fastest", "radial"))
        schedule = " | ".join(seconds(row[f"schedule_{key}_s"]) for key in ("dense", "radial"))
        yield f"| {times} | {schedule} | {row['schedule_dense_s'] / row['schedule_radial_s']:.1f} |"
        assert row["radial_s"] < row["dense_fastest_s"] < row["dense_s"]
        assert row["peak_gib_radial"] <= 1.01 * row["peak_gib_dense"]
    gains = [row["schedule_dense_s"] / row["schedule_radial_s"] for row in rows]
    yield f"{min(gains):.1f} to {max(gains):.1f} times as fast as ComfyUI as it comes, and"
    gains = [row["schedule_dense_s"] / row["schedule_with_last_step_s"] for row in rows]
    yield f"{min(gains):.1f} to {max(gains):.1f} times with the one dense last step"
    yield f"whole videos are {min(gains):.1f} to {max(gains):.1f} times as fast as ComfyUI"
    smallest = min(row["peak_gib_radial"] / row["peak_gib_dense"] for row in rows)
    assert 0.86 < smallest < 0.88
    yield "up to an eighth below"
    wan = next(row for row in rows if row["name"] == "wan2.1-14b-69f-768p")["profile"]
    spent = wan["radial"]["seconds"]
    attention, linear = (
        100 * spent[kind] / sum(spent.values()) for kind in ("attention", "linear layers")
    )
    yield f"{attention:.0f} % are attention, {linear:.0f} % linear layers, "
    yield f"linear layers, {100 - attention - linear:.0f} % all else"
    yield f"our Python is {100 * wan['host']['share_of_forward']:.1f} % on the host"
    before = {row["name"]: row for row in cases("end_to_end-unfused-h100")}
    for row in rows:
        if row["name"] in before and row["name"] != "wan2.1-1.3b-81f-480p":
            yield f"from {before[row['name']]['radial_s']:.2f} to {row['radial_s']:.2f} s"


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
        yield f"| {title} | {dense:.0f} min | {radial:.0f} min | {dense / radial:.1f} |"


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
        yield f"| {row['tokens']:,} | {kept} | {attention} | {step} |"
        assert row["attention"]["dense_kernel"] == "flash-attn-4"
        assert abs(row["peak_gib_dense"] - row["peak_gib_radial"]) <= 0.01
        together, measured = row.get("put_together"), row["note"] is None or "blocks" in row["note"]
        if together and measured:
            assert all(abs(together[k] / row[k] - 1) < 0.025 for k in ("dense_s", "radial_s"))
    named = {row["name"]: row for row in rows}
    row = named["wan2.1-1.3b-161f-480p"]
    yield f"takes {row['radial_s']:.1f} s and {row['peak_gib_radial']} GiB, with full attention"
    hours = [1200 * row[f"{way}_s"] / 3600 for way in ("radial", "dense")]
    yield f"{row['dense_s']:.1f} s: 1,200 steps are {hours[0]:.1f} hours in place of {hours[1]:.1f}"
    yield f"needs {named['wan2.1-14b-161f-768p']['peak_gib_radial']:.0f} GiB unless"
    gains = [row["comfyui_s"] / row["dense_s"] for row in rows if "comfyui_s" in row]
    yield f"takes {min(gains):.1f} to {max(gains):.1f} times as long as that"


def quality():
    """What the lab's model says."""
    found = json.loads((ROOT / "benchmarks/results/quality-compare-h100.json").read_text())
    rows, dense = {row["name"]: row for row in found["cases"]}, found["sizes"]["lab"]
    none, quarter, half = (
        rows[f"radial decay 0.2 sink 1 block 128; dense steps {n}+0, blocks 0"] for n in (0, 7, 15)
    )
    yield f"{none['psnr']:.1f} dB with none, {quarter['psnr']:.1f} with a quarter"
    yield f"of the steps, {half['psnr']:.1f} with half of them"
    work = [f"{row['kept_flops']:.2f}" for row in (none, quarter, half)]
    yield f"at {work[0]}, {work[1]} and {work[2]} of the attention's work"
    names = ("radial decay 0.2 sink 1", "spatial sink 0 keep 59", "sliding sink 0 keep 59")
    masks = [
        rows[f"{name} block 64; dense steps 0+0, blocks 0"]
        for name in (*names, "tile keep 59", "temporal sink 0 keep 59")
    ]
    assert all(round(100 * mask["density"]) == 46 for mask in masks)
    radial, *others = (f"{mask['val_loss'] - dense['dense_val_loss']:.4f}" for mask in masks)
    yield f"keep as many blocks, 46 %, radial adds least to the validation loss: {radial}, "
    titles = ("spatial", "sliding window", "tile window", "temporal")
    yield ", ".join(f"{title} {more}" for title, more in zip(titles, others, strict=True))
    assert radial < min(others)
    longer = {row["name"]: f"{row['val_loss']:.3f}" for row in cases("quality-extend-h100")}
    yield f"falls apart (validation loss {longer['4x, untouched, dense']})"
    yield f"does not ({longer['4x, untouched, radial']})"
    yield f"repairs the one ({longer['4x, dense-tuned']})"
    yield f"nothing to the other ({longer['4x, radial-tuned']})"
    training = json.loads((ROOT / "benchmarks/results/quality-train-h100.json").read_text())
    yield f"in {training['seconds'] / 60:.0f} minutes on one H100"
    yield f"a model of {training['parameters'] / 1e6:.0f} M parameters"


def watching():
    (report,) = cases("report-h100")
    yield f"is {100 * report['cost']:.1f} % of a pass of Wan 2.1 1.3B"
    wan, hunyuan = cases("probe-h100")
    yield f"takes {wan['ms']:.0f} ms for an attention call of Wan 14B at 720p and"
    yield f"{hunyuan['ms']:.0f} ms for one of HunyuanVideo's 509 frames, with "
    yield f"with {wan['extra_mib']} and {hunyuan['extra_mib']} MiB"
    for case in (wan, hunyuan):
        yield f"{case['error']:.4f} for {case['error_all_tokens']:.4f}"
    rows = cases("preview-cpu")
    median, most = (max(row[key] for row in rows) for key in ("median_ms", "most_ms"))
    longest = max(row["frames"] for row in rows)
    yield f"takes at most {median:.0f} ms ({most:.0f} ms at worst) for any length"
    yield f"up to {longest:,} frames"


def crossover():
    rows = cases("crossover-h100")
    slower = [row for row in rows if row["speedup"] < 1]
    assert all(row["density"] > 0.95 for row in slower)
    yield "plan would keep more than 95 % of the blocks"


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
)
def test_the_readme_says_what_was_measured(claim):
    assert claim in README
