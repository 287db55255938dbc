"""What the tables of the docs are made with: results, Markdown and figures."""

import json
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks/results"
NOT_MEASURED = "Not measured yet."
VIDEOS = {
    "wan2.1-14b-69f-768p": "Wan 2.1 14B, 69 frames, 768p",
    "wan2.1-14b-81f-720p": "Wan 2.1 14B, 81 frames, 720p",
    "hunyuan-117f-768p": "HunyuanVideo, 117 frames, 768p",
    "hunyuan-509f-720p": "HunyuanVideo, 509 frames, 720p",
    "wan2.1-1.3b-81f-480p": "Wan 2.1 1.3B, 81 frames, 480p",
    "hunyuan1.5-121f-720p": "HunyuanVideo 1.5, 121 frames, 720p",
    "mochi-163f-480p": "Mochi, 163 frames, 480p",
    "mochi-667f-480p": "Mochi, 667 frames, 480p",
    "minimax-h3-5s-768p": "MiniMax H3, 5 s with sound, 768p",
    "minimax-h3-10s-768p": "MiniMax H3, 10 s with sound, 768p",
    "minimax-h3-15s-768p": "MiniMax H3, 15 s with sound, 768p",
    "ltx2-257f-1088p": "LTX-2, 257 frames with sound, 1088p",
    "ltx2-505f-1088p": "LTX-2, 505 frames with sound, 1088p",
    "fusionx-69f-768p": "Wan 2.1 14B, 69 frames, 768p, FusionX LoRA",
    "lightx2v-69f-768p": "Wan 2.1 14B, 69 frames, 768p, LightX2V LoRA",
    "wan2.1-1.3b-161f-480p": "Wan 2.1 1.3B, 161 frames, 480p",
    "wan2.1-1.3b-321f-480p": "Wan 2.1 1.3B, 321 frames, 480p",
    "wan2.1-14b-81f-768p": "Wan 2.1 14B, 81 frames, 768p",
    "wan2.1-14b-161f-768p": "Wan 2.1 14B, 161 frames, 768p",
    "hunyuan-253f-768p": "HunyuanVideo, 253 frames, 768p",
    "hunyuan-509f-768p": "HunyuanVideo, 509 frames, 768p",
}


def results(name: str) -> dict:
    """A file of benchmarks/results."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def measured_in_the_lab(kind: str) -> dict | None:
    """The quality lab's first file of this kind that is not of a CPU."""
    measured = sorted(RESULTS.glob(f"quality-{kind}-*.json"))
    measured = [file.stem for file in measured if not file.stem.endswith("-tiny")]
    return results(measured[0]) if measured else None


def cases(name: str) -> list[dict]:
    return results(name)["cases"]


def by_name(name: str) -> dict[str, dict]:
    return {case["name"]: case for case in cases(name)}


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """A table; every column but the first holds figures."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def number(x: float) -> str:
    """Three digits, or all of those before the point."""
    return f"{x:,.0f}" if x >= 100 else f"{x:.1f}" if x >= 10 else f"{x:.2f}"


def times(slow: float, fast: float) -> str:
    return f"{slow / fast:.1f}x"
