"""Where a proof runs a block: other packs see nothing of it, and only the block is in question.

Linear layers are called as they are by both ways to compute a block, so plain functions stand in
for them: a proof takes no memory, moves no offloaded weights, and what it measures does not depend
on how they are quantized. Hooks are off, and attention is neither ours nor another pack's.
"""

import zlib
from collections import OrderedDict
from contextlib import contextmanager
from functools import partial

import torch
import torch.nn.functional as F

from .fits import HOOKS


@contextmanager
def alone(module):
    """With nobody's hooks and forwards, and stand-ins for linear layers.

    Yields the names of the parts that are called.
    """
    called, kept = set(), []
    try:
        for name, part in module.named_modules():
            own = vars(part)
            kept.append((own, {key: own[key] for key in (*HOOKS, "forward") if key in own}))
            own["_forward_hooks"] = OrderedDict()
            own["_forward_pre_hooks"] = OrderedDict(proof=lambda *_, name=name: called.add(name))
            own.pop("forward", None)
            if isinstance(getattr(part, "out_features", None), int) and not part._modules:
                own["forward"] = partial(_linear, name, part)
        yield called
    finally:
        for own, before in kept:
            own.pop("forward", None)
            own.update(before)


def _linear(name: str, layer, x: torch.Tensor) -> torch.Tensor:
    """Stands in for a layer: a linear function of the same sizes, another for each name."""
    drawn = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    if x.shape[-1] != layer.in_features:
        raise ValueError(f"{name} got {x.shape[-1]} features, expected {layer.in_features}")
    which = torch.randint(x.shape[-1], (3, layer.out_features), generator=drawn).to(x.device)
    a, b, c = (x.index_select(-1, each) for each in which)
    return (a + b - c) / 3**0.5


class _Options(dict):
    """transformer_options, or the patches in them, that say what is looked up."""

    def __init__(self, heeded: set, values: dict, of: str | None = None):
        super().__init__(values)
        self._heeded, self._of = heeded, of

    def _heed(self, key):
        if key != "patches":  # each of them says so itself
            self._heeded.add((self._of, key) if self._of else key)

    def __getitem__(self, key):
        self._heed(key)
        return super().__getitem__(key)

    def __contains__(self, key):
        self._heed(key)
        return super().__contains__(key)

    def get(self, key, default=None):
        self._heed(key)
        return super().get(key, default)

    def copy(self):
        return _Options(self._heeded, self, self._of)


def options_of(heeded: set, attention: list, patches: tuple[str, ...]) -> dict:
    """transformer_options with these patches in them.

    heeded: gets what is looked up, a patch as ("patches", its name). attention: gets what attention
    is called with.
    """
    patches = _Options(heeded, {name: [_patch] for name in patches}, of="patches")

    def attend(_func, q, k, v, heads, mask=None, skip_reshape=False, **named):
        plain = {key: value for key, value in named.items() if _says_something(value)}
        attention.append((heads, skip_reshape, plain))
        return _attend(q, k, v, heads, mask, skip_reshape, **named)

    values = {"patches": patches, "optimized_attention_override": attend}
    return _Options(heeded, values)


def _says_something(value) -> bool:
    return value is not None and not torch.is_tensor(value) and not isinstance(value, dict)


def _patch(seen: dict) -> torch.Tensor:
    """Changes what it gets by all that it gets."""
    x = 0.75 * seen["x"]
    for name in ("q", "k"):
        if name in seen:
            x = x + 0.25 * seen[name].flatten(2)
    return x


def _attend(q, k, v, heads, mask, skip_reshape, skip_output_reshape=False, scale=None, **_others):
    """Dense attention in float32: which kernel runs in the render is not the question here."""
    dtype = v.dtype
    if not skip_reshape:
        q, k, v = (x.unflatten(2, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    if mask is not None:
        mask = mask if mask.dtype == torch.bool else mask.float()
        mask = mask.unsqueeze(1) if mask.ndim == 3 else mask
    out = F.scaled_dot_product_attention(q.float(), k.float(), v.float(), mask, scale=scale)
    out = out.to(dtype)
    return out if skip_output_reshape else out.transpose(1, 2).flatten(2)
