"""The tables of RESULTS.md, from the results of compare.py."""

COLUMNS = {
    "mask": "name",
    "kept": "density",
    "work": "kept_flops",
    "PSNR, dB": "psnr",
    "worst frame": "psnr_worst_frame",
    "edges": "psnr_edges",
    "SSIM": "ssim",
    "LPIPS-like": "lpips_like",
    "consistency": "consistency_change",
    "attention error": "attention_error",
    "val. loss": "val_loss",
    "s": "seconds",
}
DIGITS = {
    "kept_flops": 3,
    "density": 3,
    "ssim": 4,
    "lpips_like": 4,
    "consistency_change": 4,
    "attention_error": 3,
    "val_loss": 4,
    "seconds": 1,
}
# These need the dense attention first. They are for comparison and not practical methods.
LOOK_FIRST = ("mean_all", "mean_heads", "oracle")


def complete(row: dict) -> dict:
    """A row with its size and question, which the rows of sol (taken from a log) may lack."""
    return {"size": "lab", "question": "ComfyUI's sparse attention"} | row


def front(rows: list[dict], methods: tuple[str, ...] | None = None) -> list[dict]:
    """The Pareto front at the trained size: rows that no other row beats with no more work.

    methods: to include; None for all but those of LOOK_FIRST.
    """
    rows = [row for row in rows if row["size"] == "lab" and row.get("kept_flops", 1) < 1]
    rows = [row for row in rows if _is_of(row["mask"]["method"], methods)]
    return pareto_front(rows, "kept_flops")


def pareto_front(rows: list[dict], cost: str) -> list[dict]:
    """Rows than which none is nearer to the dense video at no more cost; the cheapest first."""
    best, chosen = float("-inf"), []
    for row in sorted(rows, key=lambda row: (row[cost], -row["psnr"])):
        if row["psnr"] > best:
            best = row["psnr"]
            chosen.append(row)
    return chosen


def _is_of(method: str, methods: tuple[str, ...] | None) -> bool:
    return method not in LOOK_FIRST if methods is None else method in methods


def tables(results: dict) -> str:
    """The fronts, and one table for each question. results: with `complete` rows."""
    rows = results["cases"]
    parts = [about(results)]
    parts.append("## Radial settings that no other radial setting beats at the same work or less")
    parts.append(markdown(front(rows, ("radial",))))
    parts.append("## The same for all methods that do not need the dense attention first")
    parts.append(markdown(front(rows)))
    for question in dict.fromkeys(row["question"] for row in rows):
        selected = [row for row in rows if row["question"] == question]
        parts.append(f"## {question[0].upper()}{question[1:]}\n\n{markdown(selected)}")
    return "\n\n".join(parts) + "\n"


def about(results: dict) -> str:
    lines = [
        "# What compare.py found",
        "",
        f"{results['machine']}; `{results['command']}`. Written by draw.py from "
        "benchmarks/results. README.md says how to read the columns.",
        "",
        "± is the standard deviation over the seeds; divide it by the root of their number for "
        "that of the mean. Dense steps 7+1 are the first seven and the last one. An empty cell "
        "was not recorded.",
        "",
    ]
    measured = {row["size"] for row in results["cases"]}
    for name, size in results["sizes"].items():
        if name not in measured:
            continue
        frames, rows, columns = size["grid"]
        lines.append(
            f"- {name}: {frames} x {rows} x {columns} tokens, {size['steps']} steps, "
            f"{size['seeds']} seeds; dense consistency {size['dense_consistency']:.4f}, "
            f"validation loss {size['dense_val_loss']:.4f}"
        )
    return "\n".join(lines)


def markdown(rows: list[dict]) -> str:
    columns = {title: key for title, key in COLUMNS.items() if any(key in row for row in rows)}
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for row in rows:
        if "missing" in row:
            cells = [row["name"], row["missing"], *[""] * (len(columns) - 2)]
        else:
            cells = [_cell(row, key) for key in columns.values()]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(row: dict, key: str) -> str:
    if key == "name":
        return row["name"]
    if key not in row:
        return ""
    text = f"{row[key]:.{DIGITS.get(key, 2)}f}"
    return f"{text} ± {row['psnr_std']:.1f}" if key == "psnr" and "psnr_std" in row else text
