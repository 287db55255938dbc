"""A forward pass in which this card computes its share of the tokens.

Every card runs ComfyUI's own forward with all inputs. The first block cuts the tokens down to the
card's share. In self-attention the cards exchange tokens for heads, so each sees the whole sequence
of its own heads, and what stands on ComfyUI's attention hook computes them as ever. Behind the
blocks the first card puts the shares together; for the others the pass ends there.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from ...radial_core.ulysses.exchange import Group, gather
from ...radial_core.ulysses.token_share import TokenShare
from ..comfyui.option_keys import SLOT
from ..families.base import BlockList
from ..families.registry import family_of, unwrapped
from .exchange import attend


class NotSplit(RuntimeError):
    """What a model did in a pass can't be done on shares of its tokens."""


class Done(Exception):
    """This card's part of a pass is over."""


class SplitPass:
    """One card's part of a forward pass.

    timed: (function, arguments) -> what the function returns; measures what exchange takes.
    """

    def __init__(self, diffusion_model, group: Group, timed: Callable | None = None):
        self.model, self.group = unwrapped(diffusion_model), group
        self.family = family_of(diffusion_model)
        self.share = TokenShare(group.rank, group.size)
        self.timed = timed or (lambda function, *arguments: function(*arguments))
        self._calls: int | None = None  # of attention in the block that runs; None outside blocks
        self._previous: Callable | None = None  # on the attention hook

    def options(self, options: dict) -> dict:
        """transformer_options of the pass with the exchange on the attention hook."""
        self._previous = options.get(SLOT)
        return {**options, SLOT: self._attention}

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """The model's blocks run on this card's share of the tokens."""
        handles = []
        try:
            main = []
            for each in self.family.block_lists:
                blocks = list(getattr(self.model, each.name, None) or ())
                main += blocks if each.main else ()
                for block in blocks:
                    handles += self._hook(each, block)
            if self.family.behind_blocks is not None:
                layer = getattr(self.model, self.family.behind_blocks)
                handles.append(layer.register_forward_pre_hook(self._before_layer))
            else:
                handles.append(main[-1].register_forward_hook(self._behind_last))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _hook(self, each: BlockList, block):
        signature = inspect.signature(type(block).forward)

        def begin(_block, args: tuple, kwargs: dict):
            self._calls = 0
            try:
                call = _by_name(signature.bind(block, *args, **kwargs))
                return (), call | each.split(call, self.share)
            except Exception as error:  # such as another version's arguments
                what = f"{type(block).__name__}: {type(error).__name__}: {error}"
                raise NotSplit(what) from error

        def end(_block, _args, _output):
            calls, self._calls = self._calls, None
            if not calls:
                raise NotSplit(f"{type(block).__name__} asks no attention hook")

        yield block.register_forward_pre_hook(begin, with_kwargs=True)
        yield block.register_forward_hook(end)

    def _before_layer(self, _layer, args: tuple):
        x, *others = args
        return self._gather(x, x.ndim - 2, 0), *others

    def _behind_last(self, _block, _args, output):
        return self.family.whole_output(output, self.share, self._gather)

    def _gather(self, x: torch.Tensor, dim: int, stream: int) -> torch.Tensor:
        x = x.narrow(dim, 0, self.share.own_count(stream))
        whole = self.timed(gather, self.group, x, dim, self.share.lengths[stream])
        if whole is None:
            raise Done
        return whole

    def _attention(
        self,
        func,
        q,
        k,
        v,
        heads,
        mask=None,
        attn_precision=None,
        skip_reshape=False,
        skip_output_reshape=False,
        **kwargs,
    ):
        """An override on ComfyUI's attention hook. The first call in a block is self-attention."""
        kwargs.update(mask=mask, attn_precision=attn_precision)
        is_self = self._calls == 0
        if self._calls is not None:
            self._calls += 1
        compute = func if self._previous is None else _with(self._previous, func)
        if not is_self:
            kwargs.update(skip_reshape=skip_reshape, skip_output_reshape=skip_output_reshape)
            return compute(q, k, v, heads, **kwargs)
        tokens = [x.shape[-2 if skip_reshape else 1] for x in (q, k, v)]
        if tokens != [self.share.count] * 3:
            raise NotSplit(f"attention over {tokens} tokens, expected {self.share.count}")
        if heads < self.group.size:  # and `why_not.heads_of` knew no better
            raise NotSplit(f"{heads} heads for {self.group.size} cards")
        layout = skip_reshape, skip_output_reshape
        return attend(
            *(self.group, self.share, self.timed, compute), *(q, k, v, heads), *layout, kwargs
        )


def _with(override: Callable, func: Callable) -> Callable:
    return lambda *args, **kwargs: override(func, *args, **kwargs)


def _by_name(bound: inspect.BoundArguments) -> dict:
    """The arguments of a block by name, without the block."""
    call = dict(bound.arguments)
    for name, parameter in bound.signature.parameters.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            call.update(call.pop(name, {}))
    call.pop(next(iter(bound.signature.parameters)))
    return call
