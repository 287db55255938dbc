"""Which steps, blocks and tokens the probe measures, as a person writes it."""

from dataclasses import dataclass

from ..inputs.checks import check_number, short

MOST = 10_000  # steps, blocks
FEWEST_TOKENS, MOST_TOKENS = 16, 1024
LAST = 1.0  # as a share of the run
STEPS, BLOCKS = "steps must be like 0, 12, 25%, last", "blocks must be all, or like 0-3, 10"


@dataclass(frozen=True)
class Choice:
    """What to measure. steps: from 0, or shares of the run if they are floats. blocks: all if None.

    tokens: rows of each call.

    Raises ValueError if those are too few or too many.
    """

    steps: tuple[int | float, ...]
    blocks: tuple[range, ...] | None
    tokens: int

    def __post_init__(self):
        check_number("tokens", self.tokens, FEWEST_TOKENS, MOST_TOKENS, whole=True)

    def has_step(self, step: int, steps: int) -> bool:
        return any(step == (x if isinstance(x, int) else _at(x, steps)) for x in self.steps)

    def has_block(self, block: int) -> bool:
        return self.blocks is None or any(block in blocks for blocks in self.blocks)


def _at(share: float, steps: int) -> int:
    """The step at a share of the run."""
    return min(int(share * steps + 1e-9), steps - 1)


def read_steps(text: str) -> tuple[int | float, ...]:
    """Steps from 0 as ints, shares of the run from 0 to 1 as floats.

    Raises ValueError if the text says anything else.
    """
    return tuple(_step(word) for word in _words(text, STEPS))


def _step(word: str) -> int | float:
    if word == "last":
        return LAST
    if word.endswith("%"):
        share = _number(word[:-1].rstrip())
        if share is not None and share <= 100:
            return share / 100
    else:
        step = _number(word)
        if step is not None:
            return step
    raise ValueError(f"{STEPS}, got {short(word)}")


def read_blocks(text: str) -> tuple[range, ...] | None:
    """Ranges of blocks; None for all of them. Raises ValueError if the text says anything else."""
    words = _words(text, BLOCKS)
    if words == ["all"]:
        return None
    return tuple(_range(word) for word in words)


def _range(word: str) -> range:
    first, dash, last = word.partition("-")
    first = _number(first.strip())
    last = _number(last.strip()) if dash else first
    if first is None or last is None or last < first:
        raise ValueError(f"{BLOCKS}, got {short(word)}")
    return range(first, last + 1)


def _words(text: str, expected: str) -> list[str]:
    words = text.split(",") if isinstance(text, str) else ()
    words = [word.strip().lower() for word in words if word.strip()]
    if not words:
        raise ValueError(f"{expected}, got {short(text)}")
    return words


def _number(word: str) -> int | None:
    """A whole number from 0 to MOST; None if it is no such thing."""
    if not (word.isascii() and word.isdigit() and len(word) <= len(str(MOST))):
        return None
    return int(word) if int(word) <= MOST else None
