"""`attention.py --mine`: a few rows on the card at hand, in one small file that a person can send.

What is in such a file, and how to send it: results/mine/README.md.
"""

import re
import time

import record
import torch
from attention_case import CASES, bench
from attention_measure import DTYPE, HEAD_DIM
from attention_rows import KITCHEN_DENSE, SAGE

from radial_core.backends.contract import PRECISIONS

VIDEOS = ("Wan 1.3B 81 f 480p", "Wan 14B 81 f 720p")
BACKENDS = (
    "triton",
    "triton_int8",
    "spargeattn",
    "dense-sdpa",
    "dense-triton_int8",
    KITCHEN_DENSE,
    SAGE,
)
BASELINE = "dense-sdpa"
# q, k, v and out, a clone of k, and what the most wasteful backend keeps besides.
TENSORS = 10
COMMAND = "python benchmarks/attention.py --mine"
ADDRESS = "https://github.com/radial-attention/comfyui-radial-attention/issues/new"
TEMPLATE = "measurement.yml"

KEYS = {"machine", "versions", "command", "date", "memory_gib", "cases"}
CASE_KEYS = {"name", "tokens", "heads", "density", "auto", "rows"}
ROW_KEYS = {"backend", "precision", "ms", "tflops", "relative_error"}
ROW_KEYS |= {"peak_extra_mib", "host_us", "runs"}
# A folder or a home. "w/" stands in the names of some processors.
PATH = re.compile(r"[\\~]|(^|\s)/|\w/\w")


def main():
    free, total = torch.cuda.mem_get_info()
    cases = []
    for name in VIDEOS:
        layout, all_heads, pattern = CASES[name]
        heads = heads_that_fit(layout.tokens, all_heads, free)
        if heads == 0:
            print(f"{name}: left out, it needs more memory than is free on this card")
            continue
        note = "" if heads == all_heads else f", {heads} of {all_heads} heads"
        case = bench(name + note, layout, heads, pattern, BACKENDS)
        cases.append({**case, "rows": believable(case["rows"])})
    if not any(case["rows"] for case in cases):
        raise SystemExit("Nothing could be measured, so nothing is written. The reasons are above.")
    date = time.strftime("%Y-%m-%d")
    name = f"mine/{file_name(torch.cuda.get_device_name(), time.strftime('%Y-%m-%d-%H%M'))}"
    found = record.assembled(cases, COMMAND, date=date, memory_gib=round(total / 2**30, 1))
    # Some drivers name a card after all of its kind: "RX 7900 XT/7900 XTX".
    found["machine"] = found["machine"].replace("/", " or ")
    if wrong := faults(found):
        raise SystemExit(f"Nothing is written: {'; '.join(wrong)}")
    print(table(cases))
    path = record.write(name, found)
    print(f"Please send it: drop {path} into the form at {ADDRESS}?template={TEMPLATE}")


def heads_that_fit(tokens: int, heads: int, free: int) -> int:
    """All heads, or a half, a quarter or an eighth of them; 0 if even that needs too much memory.

    free: bytes.
    """
    each = tokens * HEAD_DIM * DTYPE.itemsize * TENSORS
    return next((h for h in (heads, heads // 2, heads // 4, heads // 8) if h * each <= free), 0)


def believable(rows: list[dict]) -> list[dict]:
    """Those that the file can have. One kernel that is wrong on a card must not cost the others."""
    kept = []
    for row in rows:
        if wrong := _row_fault(row):
            print(f"  {row['backend']}: left out, {wrong}")
        else:
            kept.append(row)
    return kept


def file_name(gpu: str, moment: str) -> str:
    return f"{re.sub('[^a-z0-9]+', '-', gpu.lower()).strip('-')}-{moment}"


def table(cases: list[dict]) -> str:
    """For the person at the screen."""
    lines = []
    for case in cases:
        lines += ["", f"{case['name']}: {case['tokens']:,} tokens, {case['density']:.1%} kept"]
        ms = {row["backend"]: row["ms"] for row in case["rows"]}
        for row in case["rows"]:
            speed = f"{ms[BASELINE] / row['ms']:6.2f}x" if BASELINE in ms else ""
            lines.append(f"  {row['backend']:26}{row['precision']:8}{row['ms']:10.2f} ms{speed}")
    return "\n".join(lines) + "\n"


def faults(found: dict) -> list[str]:
    """What is wrong with a file of results/mine; empty if nothing."""
    if found.keys() != KEYS:
        return [f"it must have {_names(KEYS)}, got {_names(found)}"]
    wrong = [f"it has a path: {text!r}" for text in _texts(found) if PATH.search(text)]
    if found["command"] != COMMAND:
        wrong.append(f"command must be {COMMAND!r}, got {found['command']!r}")
    if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", str(found["date"])):
        wrong.append(f"date must be like 2026-11-29, got {found['date']!r}")
    if not {"python", "torch"} <= found["versions"].keys():
        wrong.append("versions must have python and torch")
    for case in found["cases"]:
        wrong += _case_faults(case)
    return wrong


def _case_faults(case: dict):
    if case.keys() != CASE_KEYS:
        return [f"a case must have {_names(CASE_KEYS)}, got {_names(case)}"]
    wrong = []
    if not case["name"].startswith(VIDEOS):
        wrong.append(f"a case must be one of {', '.join(VIDEOS)}, got {case['name']!r}")
    return wrong + [fault for row in case["rows"] if (fault := _row_fault(row))]


def _row_fault(row: dict) -> str | None:
    if row.keys() != ROW_KEYS:
        return f"a row must have {_names(ROW_KEYS)}, got {_names(row)}"
    if row["backend"] not in BACKENDS:
        return f"a backend must be one of {', '.join(BACKENDS)}, got {row['backend']!r}"
    if row["precision"] not in PRECISIONS:
        return f"precision must be exact or 8 bit, got {row['precision']!r}"
    if not (row["ms"] > 0 and 0 < row["relative_error"] < 1):
        figures = f"{row['ms']} ms, {row['relative_error']}"
        return f"ms and relative_error of {row['backend']} are out of range: {figures}"
    return None


def _names(keys) -> str:
    return ", ".join(sorted(keys))


def _texts(found):
    """All texts in the file but the command."""
    if isinstance(found, str):
        return [found] if found != COMMAND else []
    if isinstance(found, dict):
        return [text for pair in found.items() for text in _texts(list(pair))]
    return [text for each in found for text in _texts(each)] if isinstance(found, list) else []
