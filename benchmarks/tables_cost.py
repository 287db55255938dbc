"""Tables of what the pack itself costs, of what grows how, and of the machines."""

from tables_format import RESULTS, VIDEOS, cases, markdown, number, results


def probe() -> str:
    rows = [
        [
            case["name"],
            *(number(case["ms"]), str(case["extra_mib"])),
            *(f"{case[key]:.4f}" for key in ("error", "error_all_tokens")),
        ]
        for case in cases("probe-h100")
    ]
    head = ["one call", "ms", "extra MiB", "error by 128 tokens", "error of the whole output"]
    return markdown(head, rows)


def report() -> str:
    rows = []
    for gpu in ("h100", "h200"):
        for case in cases(f"report-{gpu}"):
            name = f"{VIDEOS[case['name']]}, {gpu.upper()}"
            figures = [f"{1000 * case[f's_{way}']:.1f}" for way in ("without", "with")]
            rows.append([name, *figures, f"{case['cost']:+.1%}"])
    return markdown(["one pass, ms", "without the record", "with it", "difference"], rows)


def adaptive() -> str:
    """Of every machine that was measured. A model's lists are those of one conditioning branch.

    The repair has a column once a file has it.
    """
    rows = []
    files = [file.stem for file in sorted(RESULTS.glob("adaptive-*.json"))]
    repaired = any("repair_ms" in case for file in files for case in cases(file))
    for file in files:
        for case in cases(file):
            for row in case["sparse"]:
                ways = (row[f"{way}_ms"] for way in ("radial", "adaptive", "adaptive_067"))
                name = f"{case['name']}, {file.removeprefix('adaptive-').upper()}"
                ms = (case["dense_ms"], *ways, case["unpack_ms"], case["look_ms"])
                mib = (f"{case[key]:,}" for key in ("look_peak_mib", "model_lists_mib"))
                repair = [_repair(case, row)] if repaired else []
                rows.append([name, row["precision"], *map(number, ms), *mib, *repair])
    head = ["one call, ms", "precision", "dense", "radial", "adaptive", "budget 0.67"]
    head += ["unpacking", "look", "look, MiB", "lists of the model, MiB"]
    return markdown([*head, "repair (of adaptive)"] if repaired else head, rows)


def _repair(case: dict, row: dict) -> str:
    """Its milliseconds, and their share of the call with adaptive lists."""
    if "repair_ms" not in case:
        return ""
    return f"{number(case['repair_ms'])} ({row['repair_share']:.1%})"


def preview() -> str:
    rows = []
    for case in cases("preview-cpu"):
        name = f"{case['model']}, {case['size']}, {case['frames']:,} frames"
        rows.append([name, *(f"{case[key]:.0f}" for key in ("median_ms", "most_ms"))])
    return markdown(["the whole node, ms", "median", "most"], rows)


def planning() -> str:
    rows = [
        [
            f"{case['name']}: {case['tokens']:,} tokens",
            *(number(case[key]) for key in ("first_ms", "median_ms", "plan_mib")),
            *(f"{case[f'{way}_percent']} %" for way in ("kept", "released")),
        ]
        for case in cases("planning-cpu")
    ]
    head = ["one plan", "first, ms", "later, ms", "MiB", "kept", "kept by the released code"]
    return markdown(head, rows)


def scaling() -> str:
    rows = [
        [
            *(f"{case[key]:,}" for key in ("tokens", "frames", "kept_blocks")),
            f"{case['density']:.1%}",
            *(number(case[f"{way}_s"]) for way in ("radial", "dense")),
        ]
        for case in cases("scaling-cpu")
    ]
    return markdown(["tokens", "frames", "kept blocks", "kept", "radial, s", "dense, s"], rows)


def machines() -> str:
    """Where and with what each file was measured."""
    rows = []
    for file in sorted(RESULTS.glob("*.json")):
        if file.stem.endswith("-tiny"):  # of a script that was tried
            continue
        found = results(file.stem)
        versions = {**found["versions"], "ComfyUI": found.get("comfyui")}
        packages = ("torch", "triton", "flash-attn-4", "ComfyUI")
        rows.append(
            [
                f"[{file.name}](results/{file.name})",
                found["machine"].removesuffix(", Linux").replace("(R)", ""),
                *(versions.get(package) or "" for package in packages),
            ]
        )
    return markdown(["file", "machine", "torch", "Triton", "flash-attn-4", "ComfyUI"], rows)


TABLES = (probe, report, adaptive, preview, planning, scaling, machines)
