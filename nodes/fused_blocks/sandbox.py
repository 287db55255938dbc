"""Where a proof runs a block: unseen by other packs, and limited to the block's own code.

Both forwards of a block call its linear layers unchanged, so plain functions stand in for them: a
proof takes no memory, moves no offloaded weights, and does not depend on quantization (ComfyUI's
`linear_input_act` runs a quantized weight without calling its layer, so they have none). Hooks are
off, and attention is neither ours nor another pack's.
"""

import zlib
from collections import OrderedDict
from contextlib import contextmanager
from functools import partial

import torch
import torch.nn.functional as F

from .fits import HOOKS

REPLACED = *HOOKS, "forward", "_parameters"


@contextmanager
def isolated(module):
    """Without hooks and replaced forwards, and with stand-ins for linear layers.

    Yields the names of the parts that are called.
    """
    called, saved = set(), []
    try:
        for name, part in module.named_modules():
            own = vars(part)
            saved.append((own, {key: own[key] for key in REPLACED if key in own}))
            own["_forward_hooks"] = OrderedDict()
            own["_forward_pre_hooks"] = OrderedDict(proof=lambda *_, name=name: called.add(name))
            own.pop("forward", None)
            if isinstance(getattr(part, "out_features", None), int) and not part._modules:
                own["forward"] = partial(_linear, name, part)
                own["_parameters"] = dict.fromkeys(part._parameters)
        yield called
    finally:
        for own, before in saved:
            own.pop("forward", None)
            own.update(before)


def _linear(name: str, layer, x: torch.Tensor) -> torch.Tensor:
    """Stands in for a layer: a linear function of the same sizes, a different one for each name."""
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    if x.shape[-1] != layer.in_features:
        raise ValueError(f"{name} got {x.shape[-1]} features, expected {layer.in_features}")
    features = torch.randint(x.shape[-1], (3, layer.out_features), generator=generator).to(x.device)
    a, b, c = (x.index_select(-1, each) for each in features)
    return (a + b - c) / 3**0.5


class _Options(dict):
    """transformer_options, or the patches in it: a dict that records which keys are looked up."""

    def __init__(self, looked_up: set, values: dict, of: str | None = None):
        super().__init__(values)
        self._looked_up, self._of = looked_up, of

    def _record(self, key):
        if key != "patches":  # the patches record themselves
            self._looked_up.add((self._of, key) if self._of else key)

    def __getitem__(self, key):
        self._record(key)
        return super().__getitem__(key)

    def __contains__(self, key):
        self._record(key)
        return super().__contains__(key)

    def get(self, key, default=None):
        self._record(key)
        return super().get(key, default)

    def copy(self):
        return _Options(self._looked_up, self, self._of)


def recording_options(looked_up: set, attention: list, patches: tuple[str, ...]) -> dict:
    """transformer_options with these patches.

    looked_up: collects the keys that are looked up, a patch as ("patches", its name). attention:
    collects the arguments that attention is called with.
    """
    patches = _Options(looked_up, {name: [_patch] for name in patches}, of="patches")

    def attend(_func, q, k, v, heads, mask=None, skip_reshape=False, **named):
        plain = {key: value for key, value in named.items() if _is_setting(value)}
        attention.append((heads, skip_reshape, plain))
        return _attend(q, k, v, heads, mask, skip_reshape, **named)

    values = {"patches": patches, "optimized_attention_override": attend}
    return _Options(looked_up, values)


def _is_setting(value) -> bool:
    return value is not None and not torch.is_tensor(value) and not isinstance(value, dict)


def _patch(given: dict) -> torch.Tensor:
    """A patch whose output depends on everything that it is given."""
    x = 0.75 * given["x"]
    for name in ("q", "k"):
        if name in given:
            x = x + 0.25 * given[name].flatten(2)
    return x


def _attend(q, k, v, heads, mask, skip_reshape, skip_output_reshape=False, scale=None, **_others):
    """Dense attention in float32: a proof does not depend on the kernel that the render uses."""
    dtype = v.dtype
    if not skip_reshape:
        q, k, v = (x.unflatten(2, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    if mask is not None:
        mask = mask if mask.dtype == torch.bool else mask.float()
        mask = mask.unsqueeze(1) if mask.ndim == 3 else mask
    out = F.scaled_dot_product_attention(q.float(), k.float(), v.float(), mask, scale=scale)
    out = out.to(dtype)
    return out if skip_output_reshape else out.transpose(1, 2).flatten(2)
