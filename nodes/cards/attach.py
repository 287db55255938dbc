"""Puts the split of forward passes on a MODEL."""

from comfy.patcher_extension import CallbacksMP, WrappersMP

from ..comfyui.option_keys import CARDS
from .wrapper import SplitWrapper


def attach(model, gpus: int, node: str | None = None) -> None:
    """In place. What an earlier Radial Multi-GPU put into the MODEL is taken out.

    gpus: how many, 0 for all that ComfyUI sees. node: the id in the graph of the node that asks. It
    goes around what other nodes put there, and reports before them: Radial Attention Patch's report
    has its figures.
    """
    wrapper = SplitWrapper(gpus, node)
    model.remove_wrappers_with_key(WrappersMP.APPLY_MODEL, CARDS)
    model.remove_callbacks_with_key(CallbacksMP.ON_CLEANUP, CARDS)
    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, CARDS, wrapper)
    model.add_callback_with_key(CallbacksMP.ON_CLEANUP, CARDS, wrapper.end_run)
    for kinds, kind in (
        (model.wrappers, WrappersMP.APPLY_MODEL),
        (model.callbacks, CallbacksMP.ON_CLEANUP),
    ):
        kinds[kind] = {CARDS: kinds[kind].pop(CARDS), **kinds[kind]}
