"""Arguments of a call on ComfyUI's attention hook: which of them sparse attention obeys."""

KNOWN = frozenset(
    {
        "mask",
        "skip_reshape",
        "skip_output_reshape",
        "scale",
        "transformer_options",
        "_inside_attn_wrapper",
    }
)
# They may ask for anything: radial attention comes out the same. enable_gqa: calls whose keys have
# other heads are dense anyway. low_precision_attention: see override.py. preferred_attention: what
# the checkpoint chose for dense calls.
HARMLESS = frozenset({"enable_gqa", "low_precision_attention", "preferred_attention"})


def unknown_arguments(kwargs: dict) -> tuple[str, ...]:
    """Names of the arguments that ask for something we don't know, in alphabetical order."""
    return tuple(sorted(name for name, x in kwargs.items() if _asks_for_more(name, x)))


def _asks_for_more(name: str, x) -> bool:
    is_known = name in KNOWN or name in HARMLESS
    return not is_known and x is not None and x is not False and _neutral(name) != x


def _neutral(name: str) -> float | None:
    """The number by which an argument asks for nothing."""
    return 0.0 if name in ("dropout_p", "softcap") else None
