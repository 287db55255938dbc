"""Draws what a sampler run did: blocks down, steps across, and below, the seconds of each step.

Nodes are 400 to 500 pixels wide, and show it at half its size.
"""

from collections import defaultdict
from itertools import accumulate, pairwise
from statistics import median_low

from PIL import Image, ImageDraw

from ..run import amounts, gpus_text, summary_text
from ..run.reasons import Reason
from ..run.record import RADIAL
from ..run.saving import MEASURED
from .canvas import DROPPED, EDGE, FAINT, FAR, INK, NEAR, PAPER, blend, font

WIDTH, LEFT, RIGHT = 960, 76, 28
MAP_HEIGHT, BARS_HEIGHT = 300, 150
TITLE, TEXT, SMALL = 40, 26, 22
GREEN = blend(NEAR, FAR, 0.35)
REST = (206, 208, 202)  # the model outside attention
SKIPPED = (228, 222, 196)  # by a step cache
FAILED = (190, 62, 54)
DENSE = {Reason.DENSE_STEP: (74, 98, 150), Reason.DENSE_BLOCK: (148, 126, 190)}
OTHER_REASONS = ((214, 150, 66), (128, 152, 168), (176, 108, 132), (140, 134, 92))
TALL = 1.5  # times the usual height: longer bars are cut off there
GAPS = 6  # pixels: cells at least this wide have a gap between them


def draw(sections: list[tuple[str, dict | str]]) -> Image.Image:
    """Sections, one below the other. Each is a title and a run, see `Record.read`, or a message."""
    pictures = [
        _message(title, run) if isinstance(run, str) else _draw(title, run)
        for title, run in sections
    ]
    whole = Image.new("RGB", (WIDTH, sum(picture.height for picture in pictures)), PAPER)
    for picture, y in zip(pictures, accumulate([0, *(p.height for p in pictures)]), strict=False):
        whole.paste(picture, (0, y))
    return whole


def _message(title: str, text: str) -> Image.Image:
    picture = Image.new("RGB", (WIDTH, 220), PAPER)
    draw = ImageDraw.Draw(picture)
    draw.text((LEFT, 20), title, FAINT, font(TEXT))
    lines = _wrapped(draw, text, TEXT, WIDTH - LEFT - RIGHT)
    draw.multiline_text((LEFT, 64), lines, INK, font(TEXT), spacing=10)
    return picture


def _draw(title: str, run: dict) -> Image.Image:
    colours = _colours(run)
    timed = run["totals"]["seconds"] is not None
    picture = Image.new("RGB", (WIDTH, 2000), PAPER)
    draw = ImageDraw.Draw(picture)
    y = _head(draw, title, run)
    y = _map(draw, y + 16, run, colours)
    if timed:
        total = f"seconds a step: {amounts.seconds(run['totals']['seconds'])} in all"
        draw.text((LEFT, y + 14), total, FAINT, font(TEXT))
        y = _bars(draw, y + 60, run, colours)
    y = _axis(draw, y + 6, len(run["steps"]))
    y = _legend(draw, y + 10, run, colours, timed)
    return picture.crop((0, 0, WIDTH, y + 16))


def _colours(run: dict) -> dict[str, tuple]:
    """The colours of radial calls, and of dense ones by reason."""
    colours, others = {RADIAL: GREEN}, 0
    for why in run["totals"]["dense_calls"]:
        if why.reason is Reason.FAILED:
            colours[why] = FAILED
        elif why.reason in DENSE:
            colours[why] = DENSE[why.reason]
        else:
            colours[why] = OTHER_REASONS[others % len(OTHER_REASONS)]
            others += 1
    return colours


def _head(draw: ImageDraw.ImageDraw, title: str, run: dict) -> int:
    radial, saving = run["totals"]["radial_calls"], run["saving"]
    y = 20
    if title:
        draw.text((LEFT, y), title, FAINT, font(TEXT))
        y += 36
    headline, room = summary_text.headline(run), WIDTH - LEFT - RIGHT
    if saving is not None:
        about = "" if saving["how"] == MEASURED else "about "
        times, right = f"{about}{saving['speedup']:.3g}x as fast", WIDTH - RIGHT
        colour = GREEN if saving["seconds"] > 0 else INK
        draw.text((right, y), times, colour, font(TITLE), anchor="ra")
        draw.text((right, y + 56), "as dense throughout", FAINT, font(TEXT), anchor="ra")
        room -= draw.textlength(times, font(TITLE)) + TEXT
    size = int(TITLE * min(1, room / draw.textlength(headline, font(TITLE))))
    draw.text((LEFT, y + TITLE - size), headline, INK, font(size))
    y += 56
    if radial:
        draw.text((LEFT, y), summary_text.kept(run), FAINT, font(TEXT))
        y += 36
    for said in (*summary_text.lists(run), *gpus_text.notes(run)):
        lines = _wrapped(draw, said, TEXT, WIDTH - LEFT - RIGHT)
        draw.multiline_text((LEFT, y), lines, FAINT, font(TEXT), spacing=8)
        y += (lines.count("\n") + 1) * 36
    return y


def _map(draw: ImageDraw.ImageDraw, y: int, run: dict, colours: dict) -> int:
    """A cell for each step and block; one cell for the whole step where blocks are not known.

    Where a step cache skipped calls, the column shows through.
    """
    blocks = max(run["blocks"], 1)
    xs, ys = _edges(LEFT, WIDTH - RIGHT, len(run["steps"])), _edges(y, y + MAP_HEIGHT, blocks)
    draw.rectangle((LEFT, y, WIDTH - RIGHT, y + MAP_HEIGHT), fill=DROPPED)
    gap_x, gap_y = (int(edges[1] - edges[0] >= GAPS) for edges in (xs, ys))
    calls_of_block = _calls_of_blocks(run)
    for step, (left, right) in zip(run["steps"], pairwise(xs), strict=True):
        if step["skipped_calls"]:
            draw.rectangle((left, ys[0], right - gap_x - 1, ys[-1] - 1), fill=SKIPPED)
        for entry in step["blocks"]:
            unknown = entry["first"] is None
            for block in range(0 if unknown else entry["first"], (entry["last"] or 0) + 1):
                top, bottom = (ys[0], ys[-1]) if unknown else ys[block : block + 2]
                box = (left, top, right - gap_x - 1, bottom - gap_y - 1)
                every = sum(entry["calls"].values())
                if step["skipped_calls"]:
                    every = max(every, round(calls_of_block[block] * step["model_calls"]))
                _cell(draw, box, entry["calls"], every, colours)
    for text, at, anchor in (
        ("block 0", ys[0] + 4, "ra"),
        (str(run["blocks"] - 1), ys[-1] - 2, "rd"),
    ):
        if run["blocks"]:
            for line, word in enumerate(text.split()):
                down = line * SMALL if anchor == "ra" else 0
                draw.text((LEFT - 10, at + down), word, FAINT, font(SMALL), anchor=anchor)
    return y + MAP_HEIGHT


def _calls_of_blocks(run: dict) -> dict[int, float]:
    """Block -> its calls in a call of the model in which nothing is skipped."""
    most = defaultdict(float)
    for step in run["steps"]:
        for entry in step["blocks"]:
            calls = sum(entry["calls"].values()) / step["model_calls"]
            for block in range(entry["first"] or 0, (entry["last"] or 0) + 1):
                most[block] = max(most[block], calls)
    return most


def _cell(
    draw: ImageDraw.ImageDraw, box: tuple, calls: dict[str, int], every: int, colours: dict
) -> None:
    """One step and block; parts side by side if its calls ran differently.

    every: its calls and those that were skipped.
    """
    left, top, right, bottom = box
    right, done = max(left, right), 0
    for ran, number in calls.items():
        start = left + round((right - left) * done / every)
        done += number
        end = left + round((right - left) * done / every)
        draw.rectangle((start, top, end, max(bottom, top)), fill=colours[ran])


def _bars(draw: ImageDraw.ImageDraw, y: int, run: dict, colours: dict) -> int:
    """Seconds of each step: attention by how it ran, and the rest of the model."""
    seconds = [step["seconds"] or 0.0 for step in run["steps"]]
    xs, end = _edges(LEFT, WIDTH - RIGHT, len(seconds)), y + BARS_HEIGHT
    highest, top = max(seconds) or 1.0, _top(run)
    gap = int(xs[1] - xs[0] >= GAPS)
    for step, whole, (left, right) in zip(run["steps"], seconds, pairwise(xs), strict=True):
        parts = [(colours[ran], s) for ran, s in step["attention_seconds"].items()]
        parts.append((REST, max(whole - sum(s for _, s in parts), 0.0)))
        shrink, bottom = min(1.0, top / whole) if whole else 1.0, float(end)
        for colour, s in parts:
            upper = bottom - BARS_HEIGHT * shrink * s / top
            if round(upper) < round(bottom):
                box = (left, round(upper), max(right - gap - 1, left), round(bottom) - 1)
                draw.rectangle(box, fill=colour)
            bottom = upper
        if whole > top:  # cut off
            draw.line((left, y + 9, right - gap, y + 3), PAPER, 4)
        if whole == highest > top:
            far_right = right > WIDTH * 0.85
            beside, anchor = (left - 8, "ra") if far_right else (right + 6, "la")
            draw.text((beside, y), amounts.seconds(whole), FAINT, font(SMALL), anchor=anchor)
    draw.line((LEFT, end, WIDTH - RIGHT, end), EDGE)
    draw.text(
        (LEFT - 10, y),
        amounts.seconds(top).removesuffix(" s"),
        FAINT,
        font(SMALL),
        anchor="ra",
    )
    draw.text((LEFT - 10, end), "0", FAINT, font(SMALL), anchor="rd")
    return end


def _top(run: dict) -> float:
    """The height of the chart, in seconds. Bars much longer than usual, such as that of a step that
    compiles, are cut off. What is usual is taken from the steps in which the same ran."""
    alike = defaultdict(list)
    for step in run["steps"]:
        alike[frozenset(step["attention_seconds"])].append(step["seconds"] or 0.0)
    highest = max(max(seconds) for seconds in alike.values()) or 1.0
    top = TALL * max(median_low(seconds) for seconds in alike.values())
    return top if 0 < 1.2 * top < highest else highest


def _axis(draw: ImageDraw.ImageDraw, y: int, steps: int) -> int:
    draw.text((LEFT, y), "step 0", FAINT, font(SMALL))
    if steps > 1:
        draw.text((WIDTH - RIGHT, y), str(steps - 1), FAINT, font(SMALL), anchor="ra")
    return y + SMALL + 4


def _legend(draw: ImageDraw.ImageDraw, y: int, run: dict, colours: dict, timed: bool) -> int:
    entries = []
    if run["totals"]["radial_calls"]:
        entries.append((GREEN, f"radial: {run['totals']['radial_calls']:,} calls"))
    for why, calls in run["totals"]["dense_calls"].items():
        dense = "" if why.reason in DENSE else "dense, "
        entries.append((colours[why], f"{dense}{why}: {calls:,} calls"))
    if any(step["skipped_calls"] for step in run["steps"]):
        entries.append((SKIPPED, "skipped by a step cache"))
    if timed:
        entries.append((REST, "rest of the model"))
    x, size = LEFT, TEXT
    for colour, text in entries:
        text = _wrapped(draw, text, size, WIDTH - LEFT - RIGHT - size - 12)
        width = draw.multiline_textbbox((0, 0), text, font(size))[2] + size + 40
        if x > LEFT and x + width > WIDTH - RIGHT + 28:
            x, y = LEFT, y + size + 12
        draw.rectangle((x, y + 4, x + size - 4, y + size), fill=colour)
        draw.multiline_text((x + size + 8, y), text, INK, font(size), spacing=8)
        x += width
        if "\n" in text:
            x, y = LEFT, y + text.count("\n") * (size + 8) + size + 12
    return y + size + 8


def _edges(start: int, end: int, parts: int) -> list[int]:
    return [start + round((end - start) * i / parts) for i in range(parts + 1)]


def _wrapped(draw: ImageDraw.ImageDraw, text: str, size: int, width: int) -> str:
    """A text with line breaks, so that it fits into the width."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and draw.textlength(longer, font(size)) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return "\n".join(lines)
