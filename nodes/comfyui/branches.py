"""What a forward pass computes: which conditioning of which video, in which window of frames."""

from collections.abc import Hashable


def branches(options: dict, batch: int) -> list[Hashable]:
    """For each element of a pass's batch, its conditioning and its number among the videos.

    ComfyUI puts the positive and the negative conditioning into one batch where memory allows, and
    changes that from step to step. options: the pass's transformer_options.
    """
    sides, prompts = options.get("cond_or_uncond") or (), options.get("uuids") or ()
    # ComfyUI gives a negative prompt that it makes for a part of the video the positive one's uuid.
    same = len(sides) == len(prompts)
    conditionings = list(zip(sides, prompts, strict=True)) if same else sides or prompts
    videos, rest = divmod(batch, len(conditionings) or 1)
    if rest or not conditionings:
        return [(None, number) for number in range(batch)]
    return [(conditionings[i // videos], i % videos) for i in range(batch)]


def window(options: dict) -> tuple[int, ...] | None:
    """The frames of the context window that a pass is about; None if there are no windows."""
    frames = getattr(options.get("context_window"), "index_list", None)
    return None if frames is None else tuple(frames)
