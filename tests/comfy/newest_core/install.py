"""Puts ComfyUI 0.38's attention in the place of the installed one, for Wan and MiniMax H3."""

import functools
import importlib
import importlib.util

import comfy.ldm.modules.attention as comfy_attention
from comfy.cli_args import args

from .dispatch import AttentionTensorContainer
from .functions import attention_comfy_kitchen_int8, attention_pytorch

FUNCTIONS = (attention_pytorch, attention_comfy_kitchen_int8)
preferred = [None]  # the last counts


def prefer(attention, comfy_attention) -> None:
    """attention: a module of a model; its checkpoint prefers what is in comfy_attention."""
    attention.comfy_attention = comfy_attention
    attention.register_forward_pre_hook(lambda *_: preferred.append(comfy_attention))
    attention.register_forward_hook(lambda *_: preferred.pop() and None)


def install(monkeypatch, known: dict, use_ck_attention: bool = False) -> None:
    """known: what the pack takes for ComfyUI's functions. use_ck_attention: ComfyUI's option."""
    for function in FUNCTIONS:
        monkeypatch.setattr(comfy_attention, function.__name__, function, raising=False)
        monkeypatch.setitem(known, function.__name__, function.__wrapped__)
        function.calls.clear()
    attention_comfy_kitchen_int8.freed.clear()
    monkeypatch.setattr(args, "use_ck_attention", use_ck_attention, raising=False)
    optimized = as_models_call_it(FUNCTIONS[use_ck_attention])
    monkeypatch.setattr(comfy_attention, "optimized_attention", optimized)
    for family in ("wan", "minimax"):
        if importlib.util.find_spec(f"comfy.ldm.{family}") is not None:  # 0.16.3 has no H3
            model = importlib.import_module(f"comfy.ldm.{family}.model")
            monkeypatch.setattr(model, "optimized_attention", optimized)


def as_models_call_it(function):
    """The models of 0.38 give q, k and v away in containers, and name what the block prefers."""

    @functools.wraps(function)
    def call(q, k, v, *args, **kwargs):
        containers = [AttentionTensorContainer(x.clone()) for x in (q, k, v)]
        out = function(*containers, *args, preferred_attention=preferred[-1], **kwargs)
        assert all(each.tensor is None for each in containers), "q, k and v stay alive"
        return out

    call.__wrapped__ = function.__wrapped__
    return call
