"""Tables of exact attention and attention in 8 bits: measured, sent in by others, and expected."""

import json

from tables_format import RESULTS, by_name, markdown, number, results

VIDEO = "Wan 14B 81 f 720p"
COLUMNS = {  # of what people send in
    "dense: PyTorch": "dense-sdpa",
    "SageAttention": "dense-sageattention",
    "comfy-kitchen": "dense-comfy-kitchen int8",
    "ours, 8 bit": "dense-triton_int8",
    "radial: exact": "triton",
    "radial: 8 bit": "triton_int8",
    "SpargeAttn": "spargeattn",
}

CALLS = {  # of our own measurements, by length
    "radial: exact": "auto",
    "radial: 8 bit": "triton_int8",
    "sol_attn, tau 1.3": "comfy-kitchen sol_attn (int8, tau 1.3), error against dense",
    "sol_attn, tau 1.0": "comfy-kitchen sol_attn (int8, tau 1.0), error against dense",
    "dense: exact": "dense-triton",
    "dense: 8 bit": "dense-triton_int8",
    "comfy-kitchen": "dense-comfy-kitchen int8",
    "SageAttention": "dense-sageattention",
}

# Of libraries that few people have: ours in 8 bits, and theirs.
BESIDE_OURS = {"triton_int8": "spargeattn", "dense-triton_int8": "dense-sageattention"}

# What a pass of Wan 14B, 81 frames, 720p, takes: FLOPs of attention and of the linear layers.
ATTENTION = 4 * 75_600**2 * 40 * 128 * 40
LINEAR = 2.12e15
DENSE_STEPS = 0.25
# TFLOP/s of the linear layers in bfloat16, and published rates of dense attention at 32k tokens and
# head_dim 128: FlashAttention-2, SageAttention 1, and the best 8-bit kernel for the card (on the
# 3090 SageAttention 1, on the others 2++). From the charts of SageAttention's authors.
CARDS = {
    "RTX 3090": (65, 70, 135, 135),
    "RTX 4090": (150, 164, 322, 493),
    "RTX 5090": (205, 214, 479, 643),
}
OURS = 0.9  # of the rate of FlashAttention-2, and in 8 bits of that of SageAttention 1


def precision() -> str:
    """Every row of one case."""
    rows = []
    for gpu in ("h100", "h200"):
        if not (RESULTS / f"attention-{gpu}.json").exists():
            continue
        for row in by_name(f"attention-{gpu}")[VIDEO]["rows"]:
            rate = number(row["tflops"]) if row["tflops"] else ""
            figures = (number(row["ms"]), rate, f"{row['relative_error']:.4f}")
            memory = f"{row['peak_extra_mib']:,.0f}"
            rows.append([f"{row['backend']}, {gpu.upper()}", row["precision"], *figures, memory])
    head = ["75,600 tokens, 40 heads", "precision", "ms", "TFLOP/s", "error", "extra MiB"]
    return markdown(head, rows)


def eight_bit_calls() -> str:
    """Exact and 8 bit, ours and others', by length, where ours in 8 bits was measured."""
    table = []
    for gpu in ("h100", "h200"):
        for case in by_name(f"attention-{gpu}").values():
            rows = {row["backend"]: row for row in case["rows"]}
            if "triton_int8" not in rows:
                continue
            name = f"{case['tokens']:,} tokens, {case['heads']} heads, {gpu.upper()}"
            ms = [number(rows[each]["ms"]) if each in rows else "" for each in CALLS.values()]
            ours = ("triton_int8", "dense-triton_int8")
            errors = [f"{rows[each]['relative_error']:.4f}" for each in ours if each in rows]
            table.append([name, f"{case['density']:.1%}", *ms, ", ".join(errors)])
    head = ["one call, ms", "kept", *CALLS, "error of our 8 bit: radial, dense"]
    return markdown(head, table) if table else "Not measured yet."


def sparge_sage() -> str:
    """SpargeAttn and SageAttention 2 beside ours, on the same kind of GPU."""
    table = []
    for file in sorted(RESULTS.glob("attention-spargeattn-*.json")):
        gpu = file.stem.rpartition("-")[2]
        ours = by_name(f"attention-{gpu}")
        for case in results(file.stem)["cases"]:
            theirs = {row["backend"]: row for row in case["rows"]}
            own = {row["backend"]: row for row in ours[case["name"]]["rows"]}
            cells = []
            for our, their in BESIDE_OURS.items():
                pair = (own[our], theirs[their]) if their in theirs else ()
                figures = [f"{number(row['ms'])} ({row['relative_error']:.4f})" for row in pair]
                cells += figures or ["", ""]
            name = f"{case['tokens']:,} tokens, {case['heads']} heads, {gpu.upper()}"
            table.append([name, *cells])
    head = ["one call, ms (error)", "radial: ours", "SpargeAttn", "dense: ours", "SageAttention 2"]
    return markdown(head, table) if table else "Not measured yet."


def mma_sync() -> str:
    """The RTX cards' code on an H100 or H200."""
    rows = []
    for file in sorted(RESULTS.glob("attention-mma-sync-*.json")):
        gpu = file.stem.rpartition("-")[2].upper()
        for case in results(file.stem)["cases"]:
            exact = next((row for row in case["rows"] if row["backend"] == "bf16"), None)
            for row in case["rows"]:
                name = f"{row['backend']}: {case['name']}, {gpu}"
                faster = f"{row['tflops'] / exact['tflops']:.2f}x" if exact else ""
                figures = (number(row["ms"]), number(row["tflops"]), faster)
                rows.append([name, row["precision"], *figures, f"{row['relative_error']:.4f}"])
    if not rows:
        return "Not measured yet."
    return markdown(["one call", "precision", "ms", "TFLOP/s", "rate to bf16", "error"], rows)


def sent_in() -> str:
    """What people measured on their cards: milliseconds by card and video."""
    rows = []
    for file in sorted((RESULTS / "mine").glob("*.json")):
        found = json.loads(file.read_text(encoding="utf-8"))
        card = found["machine"].partition(";")[0]
        for case in found["cases"]:
            ms = {row["backend"]: row["ms"] for row in case["rows"]}
            figures = [number(ms[name]) if name in ms else "" for name in COLUMNS.values()]
            rows.append([f"[{card}]({file.name}): {case['name']}", *figures])
    return markdown(["one call, ms", *COLUMNS], rows) if rows else "None yet."


def expected() -> str:
    """Seconds of a pass by arithmetic: work divided by published rates. Nothing was measured."""
    density = by_name("attention-h100")[VIDEO]["density"]
    rows = []
    for card, (linear, flash, sage, best) in CARDS.items():
        exact, eight_bit = _pass(linear, flash), _pass(linear, best)
        radial = _with_dense_steps(_pass(linear, OURS * flash, density), exact)
        radial_8 = _with_dense_steps(_pass(linear, OURS * sage, density), eight_bit)
        gains = (f"{exact / radial:.2f}x", f"{eight_bit / radial_8:.2f}x")
        rows.append([card, *map(number, (exact, radial)), gains[0]])
        rows[-1] += [*map(number, (eight_bit, radial_8)), gains[1]]
    head = ["expected, s a pass", "exact: dense", "radial", "speed-up"]
    return markdown([*head, "8 bit: dense", "radial", "speed-up"], rows)


def _pass(linear: float, attention: float, density: float = 1.0) -> float:
    """Seconds. linear, attention: TFLOP/s."""
    return (LINEAR / linear + density * ATTENTION / attention) / 1e12


def _with_dense_steps(radial: float, dense: float) -> float:
    return DENSE_STEPS * dense + (1 - DENSE_STEPS) * radial


TABLES = (precision, eight_bit_calls, sparge_sage, mma_sync, sent_in, expected)
