"""Whether dense attention runs in 8 bits is read from the functions that run it."""

import gc
import sys
import weakref
from functools import partial
from types import FunctionType, ModuleType

import comfy.ldm.modules.attention as comfy_attention
import pytest
import torch
from conftest import newest_only, pack_module
from eight_bit import (
    EXACT,
    attention_of,
    install_sage,
    kitchen,
    model_attention_backend,
    passing_on,
    patch_flash_kj,
    patch_sage_kj,
)
from torch.nn.functional import scaled_dot_product_attention

SAGE = comfy_attention.attention_sage.__wrapped__

pytestmark = pytest.mark.oldest


@pytest.fixture
def sage(monkeypatch):
    return install_sage(monkeypatch)


def runs_in_8_bits(func, previous=None):
    return pack_module("nodes.comfyui.eight_bit").runs_in_8_bits(func, previous)


def of_a_pack(source, **variables):
    """The function `override` of a pack's module."""
    module = ModuleType("some_pack")
    vars(module).update(variables)
    exec(source, vars(module))
    return module.override


class Chained:
    """An override that is an object."""

    def __init__(self, previous):
        self.previous = previous
        self.model = torch.nn.Linear(1, 1)

    def __call__(self, func, *args, **kwargs):
        return self.previous(func, *args, **kwargs)

    def method(self, func, *args, **kwargs):
        return self.previous(func, *args, **kwargs)


class Deaf(Chained):
    def __call__(self, func, *args, **kwargs):
        return self.previous(None, *args, **kwargs)


def passing_on_to(override, func, *args, **kwargs):
    return override(func, *args, **kwargs)


def deaf_on_to(override, func, *args, **kwargs):
    return override(None, *args, **kwargs)


def test_comfyuis_own_functions():
    names = {name for name, f in pack_module("nodes.comfyui.attention_functions").FUNCTIONS.items()}
    functions = {name: getattr(comfy_attention, name).__wrapped__ for name in names}
    found = {name for name, function in functions.items() if runs_in_8_bits(function)}
    assert {"attention_pytorch", "attention_flash", "attention_sub_quad"} < names - found
    assert found == {"attention_sage", "attention3_sage"} & names


def test_the_names_are_there():
    """What we look for by name is what this version of ComfyUI has."""
    assert SAGE.__name__ == "attention_sage" and "sageattn" in SAGE.__code__.co_names
    assert not runs_in_8_bits(EXACT)


@newest_only("0.16.3 has no SageAttention 3")
def test_sage_3_of_comfyui():
    assert "sageattn3_blackwell" in comfy_attention.attention3_sage.__wrapped__.__code__.co_names


@pytest.mark.parametrize(
    "wrap",
    [
        lambda override: override,
        lambda override: partial(override),
        lambda override: partial(passing_on_to, override),
        lambda override: lambda func, *a, **k: override(func, *a, **k),
        lambda override: torch.compiler.disable()(override),
        Chained,
        lambda override: Chained(override).method,
        lambda override: Chained(Chained(Chained(override))),
    ],
    ids=["it", "partial", "argument", "lambda", "decorated", "object", "method", "deep"],
)
def test_an_override_within_another(sage, wrap):
    assert runs_in_8_bits(EXACT, wrap(patch_sage_kj(sage)))
    assert runs_in_8_bits(EXACT, wrap(model_attention_backend(kitchen())))
    assert not runs_in_8_bits(EXACT, wrap(patch_flash_kj()))
    assert not runs_in_8_bits(EXACT, wrap(passing_on))


@pytest.mark.parametrize(
    "previous, in_8_bits",
    [
        (None, True),
        (passing_on, True),
        (Chained(passing_on), True),
        (Chained(passing_on).method, True),
        (torch.compiler.disable()(passing_on), True),
        (lambda *args, **kwargs: args[0](*args[1:], **kwargs), True),
        (lambda func, *args: (lambda: func(*args))(), True),
        (patch_flash_kj(), False),
        (model_attention_backend(attention_of(scaled_dot_product_attention, "attention")), False),
        (torch.compiler.disable()(patch_flash_kj()), False),
        (Deaf(patch_flash_kj()), False),
        (partial(patch_flash_kj()), False),
        (partial(Deaf(patch_flash_kj()).__call__), False),
        (partial(passing_on), True),
        (partial(passing_on_to, passing_on), True),
        (partial(deaf_on_to, patch_flash_kj()), False),
    ],
)
def test_comfyuis_function_counts_where_the_override_passes_it_on(previous, in_8_bits):
    """With --use-sage-attention, a node may choose another attention."""
    assert runs_in_8_bits(SAGE, previous) == in_8_bits
    assert not runs_in_8_bits(EXACT, previous)


@pytest.mark.parametrize(
    "source, in_8_bits",
    [
        # a kernel by its name
        ("def override(f, *a): return sageattn(*a)", True),
        ("def override(f, *a): return sageattention.sageattn_qk_int8_pv_fp16_triton(*a)", True),
        ("def override(f, *a):\n from sageattention import sageattn\n return sageattn(*a)", True),
        ("def override(f, *a): return attention_sage(*a)", True),
        ("def override(f, *a): return (lambda: sageattn(*a))()", True),
        # nothing of the kind, for all its name
        ("def override(f, *a): return f(message=usage(*a))", False),
        ("def override(f, *a): return passage(f, *a).sage", False),
        ("def override(f, *a): return f(*a, int8_attention=options.int8_attention)", False),
        ("def override(f, *a): return theirs.sageattn_varlen(*a)", False),
        ("sageattn = None\ndef override(f, *a): return sageattn(*a) if sageattn else f(*a)", False),
        ("sageattn_modes = [1]\ndef override(f, *a): return f(*a, sageattn_modes)", False),
    ],
)
def test_a_function_of_another_pack(sage, source, in_8_bits):
    package = sys.modules["sageattention"]
    known = {"sageattn": sage, "attention_sage": SAGE, "sageattention": package}
    override = of_a_pack(source, **{"message": None, **known})
    assert runs_in_8_bits(EXACT, override) == in_8_bits


@pytest.mark.parametrize("there", range(5))
def test_any_kernel_counts_where_others_are_missing(sage, there):
    """SageAttention 1 has none of version 2's kernels, and packs name them all."""
    names = [f"sageattn_qk_int8_pv_fp16_{i}" for i in range(5)]
    calls = "\n".join(f" if {name}: return {name}(*a)" for name in names)
    kernels = dict.fromkeys(names) | {names[there]: sage}
    override = of_a_pack(f"def override(f, *a):\n{calls}", **kernels)
    assert runs_in_8_bits(EXACT, override)


@pytest.mark.parametrize("name", ["usage", "message_attention", "attention_usage", "sageattn_off"])
def test_a_name_with_sage_in_it(name):
    function = attention_of(scaled_dot_product_attention, name)
    assert not runs_in_8_bits(function) and not runs_in_8_bits(EXACT, function.__wrapped__)


class Hostile:
    """Answers nothing that is asked of it."""

    __hash__ = None

    def __getattr__(self, name):
        raise RuntimeError(name)

    def __call__(self, func, *args, **kwargs):
        return func(*args, **kwargs)


class Incomparable:
    """Has a hash, but its comparison answers neither yes nor no."""

    def __hash__(self):
        return 1

    def __eq__(self, other):
        return torch.ones(2) == 1

    def __call__(self, func, *args, **kwargs):
        return func(*args, **kwargs)


class Unhashable(Incomparable):
    def __hash__(self):
        raise RuntimeError("no hash")


def test_nothing_raises(sage):
    for override in (Incomparable(), Unhashable()):
        for _ in range(2):
            assert runs_in_8_bits(SAGE, override) and not runs_in_8_bits(EXACT, override)
    assert not runs_in_8_bits(EXACT, Hostile())
    assert runs_in_8_bits(SAGE, Hostile())
    assert not runs_in_8_bits(EXACT, scaled_dot_product_attention)
    endless = FunctionType(passing_on.__code__, globals())
    endless.again = endless.__wrapped__ = endless
    assert not runs_in_8_bits(EXACT, endless)


def test_what_is_known_of_an_override_does_not_keep_it():
    """It may hold a model."""
    override = patch_flash_kj()
    runs_in_8_bits(EXACT, override)
    seen = weakref.ref(override)
    del override
    gc.collect()
    assert seen() is None
