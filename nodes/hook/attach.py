"""Puts the override on a MODEL, and finds it there."""

from comfy.patcher_extension import CallbacksMP, WrappersMP

from ..comfyui.option_keys import KEY
from .forward_wrapper import ForwardWrapper
from .override import RadialOverride
from .skipped_steps import SkippedSteps


def attach(model, override: RadialOverride) -> None:
    """In place. What an earlier Radial Attention Patch put into the MODEL is taken out."""
    for kind in (WrappersMP.APPLY_MODEL, WrappersMP.PREDICT_NOISE):
        model.remove_wrappers_with_key(kind, KEY)
    model.remove_callbacks_with_key(CallbacksMP.ON_CLEANUP, KEY)
    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, ForwardWrapper(override))
    model.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, KEY, SkippedSteps(override))
    wrappers = model.wrappers[WrappersMP.PREDICT_NOISE]
    model.wrappers[WrappersMP.PREDICT_NOISE] = {KEY: wrappers.pop(KEY), **wrappers}  # outermost
    model.add_callback_with_key(CallbacksMP.ON_CLEANUP, KEY, override.end_run)
    model.set_attachments(KEY, override)


def override_of(model) -> RadialOverride | None:
    """What Radial Attention Patch put into a MODEL; None if it never went through that node.

    A clone of a MODEL shares the attachments of the one that it came from.
    """
    return model.get_attachment(KEY)
