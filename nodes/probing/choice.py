"""Which steps, blocks and tokens the probe measures, parsed from what the user typed."""

from dataclasses import dataclass

from ..inputs.checks import check_number, short

MAX_NUMBER = 10_000  # of a step or a block
FEWEST_TOKENS, MOST_TOKENS = 16, 1024
LAST = 1.0  # the last step, as a share of the run
STEPS_FORM = "steps must be like 0, 12, 25%, last"
BLOCKS_FORM = "blocks must be all, or like 0-3, 10"


@dataclass(frozen=True)
class Choice:
    """What to measure.

    steps: numbers from 0 (int) or shares of the run (float). blocks: None for all of them.
    tokens: query rows measured in each call.

    Raises ValueError if `tokens` is out of range.
    """

    steps: tuple[int | float, ...]
    blocks: tuple[range, ...] | None
    tokens: int

    def __post_init__(self):
        check_number("tokens", self.tokens, FEWEST_TOKENS, MOST_TOKENS, whole=True)

    def has_step(self, step: int, steps: int) -> bool:
        return any(step == (x if isinstance(x, int) else _step_at(x, steps)) for x in self.steps)

    def has_block(self, block: int) -> bool:
        return self.blocks is None or any(block in blocks for blocks in self.blocks)


def _step_at(share: float, steps: int) -> int:
    """The step at a share of the run."""
    return min(int(share * steps + 1e-9), steps - 1)


def read_steps(text: str) -> tuple[int | float, ...]:
    """Steps from 0 as ints, shares of the run from 0 to 1 as floats.

    Raises ValueError if the text says anything else.
    """
    return tuple(_step(item) for item in _items(text, STEPS_FORM))


def _step(item: str) -> int | float:
    if item == "last":
        return LAST
    if item.endswith("%"):
        share = _number(item[:-1].rstrip())
        if share is not None and share <= 100:
            return share / 100
    else:
        step = _number(item)
        if step is not None:
            return step
    raise ValueError(f"{STEPS_FORM}, got {short(item)}")


def read_blocks(text: str) -> tuple[range, ...] | None:
    """Ranges of blocks; None for all of them. Raises ValueError if the text says anything else."""
    items = _items(text, BLOCKS_FORM)
    if items == ["all"]:
        return None
    return tuple(_range(item) for item in items)


def _range(item: str) -> range:
    first, dash, last = item.partition("-")
    first = _number(first.strip())
    last = _number(last.strip()) if dash else first
    if first is None or last is None or last < first:
        raise ValueError(f"{BLOCKS_FORM}, got {short(item)}")
    return range(first, last + 1)


def _items(text: str, expected: str) -> list[str]:
    """The comma-separated parts of a text, in lower case."""
    items = text.split(",") if isinstance(text, str) else ()
    items = [item.strip().lower() for item in items if item.strip()]
    if not items:
        raise ValueError(f"{expected}, got {short(text)}")
    return items


def _number(item: str) -> int | None:
    """A whole number from 0 to MAX_NUMBER; None for anything else."""
    if not (item.isascii() and item.isdigit() and len(item) <= len(str(MAX_NUMBER))):
        return None
    return int(item) if int(item) <= MAX_NUMBER else None
