"""Tells which transformer block an attention call is in, where no hook on the block says so."""

import itertools

from ..comfyui.option_keys import BLOCK
from ..families.registry import TokenLayout


def says_its_block(options: dict) -> bool:
    """Whether a call's transformer_options tell that it is in a transformer block."""
    return options.get(BLOCK) is not None or options.get("block_index") is not None


class BlockNumbers:
    """Numbers the self-attention calls over the video of one forward pass by their blocks."""

    def __init__(self, tokens: TokenLayout):
        self._tokens = tokens
        self._counted = itertools.count()
        # block_type -> block_index as announced, the block it is, and the calls of that block.
        self._last = {}

    def of_call(self, options: dict, as_said: bool = False) -> int:
        """The block of a self-attention call over the video.

        options: its transformer_options. as_said: believe a block that says it is the last one
        again. In training, where blocks run again for their gradients, it may well be that one.
        """
        if options.get(BLOCK) is not None:
            return options[BLOCK]
        index, kind = options.get("block_index"), options.get("block_type")
        if index is None:
            return next(self._counted)
        return self.in_model(kind, index if as_said else self.announced(kind, index))

    def announced(self, kind: str | None, index: int) -> int:
        """The block_index of a call that says `index`.

        A block that says it is the last one again, and has had its calls, is the one behind it.
        That happens where blocks are run from a wrapper, or share a graph of torch.compile.
        """
        said, actual, calls = self._last.get(kind, (None, None, 0))
        if index != said:
            actual, calls = index, 0
        elif calls >= self._tokens.calls_of_block.get(actual, 1):
            actual, calls = actual + 1, 0
        self._last[kind] = index, actual, calls + 1
        return actual

    def in_model(self, kind: str | None, index: int) -> int:
        """The place in the model of a block of a kind."""
        return index + (kind == "single") * self._tokens.double_blocks
