"""What PSNR does not see: a video that flickers, and shapes that vanish from it.

Pixels are (b, f, h, w, 3) in 0..1.

    tracked = held_out(size, count)              clips that nothing was trained on
    video = from_clips(model, tracked, 30, 10)   what a model makes of them with noise on them
    lost_objects(video, tracked), flicker(video, the dense model's)
"""

import codec
import flow
import model as lab_model
import torch
import video as clip_video
from einops import rearrange
from torch.nn.functional import avg_pool2d

# The first one. Training, validation and extend_stats.py have others.
TRACKED_SEED = flow.HELD_OUT + 2_000_000
UNSEEN = 1 / 255  # a step of 8 bits: changes below it count for little
# A shape that covers less of the picture is not in view. An eighth of a small one, unhidden.
IN_VIEW = 0.005
BLUR = 1 / 6  # of the picture's height: about a stripe and the next one of a shape's texture


def flicker(video: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """How much more a typical pixel of a video flickers than one of the reference's: (b,).

    0.1 is 10 % more, 0 the same, below 0 less. A pixel flickers by the size of its second
    difference over time, so an even change does not count. Its geometric mean over the pixels is
    compared: in a plain mean, moving edges would hide what happens in still places. Where things
    are does not matter, so a video with the same motion at other places has about 0. What flickers
    in a small part of the picture counts little.

    reference: the dense video, of any size with as many videos. Both have 3 frames or more.
    """
    return _unsteadiness(video) / _unsteadiness(reference) - 1


def _unsteadiness(video: torch.Tensor) -> torch.Tensor:
    bend = video[:, 2:] - 2 * video[:, 1:-1] + video[:, :-2]
    size = bend.square().mean(dim=-1) + UNSEEN**2
    return (size.log().mean(dim=(1, 2, 3)) / 2).exp()


def lost_objects(video: torch.Tensor, tracked: clip_video.Tracked) -> torch.Tensor:
    """The share of shapes that a video has lost: (b,), 0 to 1, nan if none is in view.

    video: what a model made from these clips with noise on them, so that their shapes should be
    where they were. A shape is lost in a frame if, where it should be seen, the video is nearer to
    the clip without it (mean square). Both are blurred first, so that a shape's texture or place
    may change a little. Counted are the frames in which it covers IN_VIEW of the picture.
    """
    lost, counted = _lost(video, tracked)
    return lost.sum(dim=(0, 2)) / counted.sum(dim=(0, 2))


def _lost(video: torch.Tensor, tracked: clip_video.Tracked) -> tuple[torch.Tensor, torch.Tensor]:
    """Whether a shape is lost, and whether it counts, in each frame: (shapes, b, f)."""
    video, clips, without = (_blurred(x) for x in (video, tracked.clips, tracked.without))
    nearer = (video - without).square() - (video - clips).square()
    margin = (tracked.visible * nearer.mean(dim=-1)).sum(dim=(-1, -2))
    counted = tracked.visible.mean(dim=(-1, -2)) >= IN_VIEW
    return (margin < 0) & counted, counted


def _blurred(pixels: torch.Tensor) -> torch.Tensor:
    """The mean of a square around each pixel, as wide as BLUR: (..., h, w, 3)."""
    reach = int(BLUR * pixels.shape[-3] / 2)
    images = rearrange(pixels.flatten(0, -5), "n f h w c -> (n f) c h w")
    for across in ((1, 0), (0, 1)):
        padding = tuple(reach * x for x in across)
        width = tuple(1 + 2 * x for x in padding)
        images = avg_pool2d(images, width, 1, padding, count_include_pad=False)
    return rearrange(images, "n c h w -> n h w c").reshape(pixels.shape)


def held_out(
    size: lab_model.Size, count: int, device: torch.device | str = "cpu"
) -> clip_video.Tracked:
    """Clips of a model's size on which nothing was trained."""
    return clip_video.tracked_clips(TRACKED_SEED, count, *size.pixels, device)


def from_clips(
    model,
    tracked: clip_video.Tracked,
    steps: int,
    first_step: int,
    which: slice = slice(None),
) -> torch.Tensor:
    """Sample from clips with noise on them: pixels (b, f, h, w, 3) on their device.

    first_step: of `steps`, the one whose noise they get and from which on a MODEL samples. The
    later it is, the more of the clip is given. which: of the clips; each has the same noise in
    every call.
    """
    clean = codec.encode(tracked.clips[which])
    seeds = range(TRACKED_SEED, TRACKED_SEED + len(tracked.clips))[which]
    noise = lab_model.noise(seeds, tuple(clean.shape[2:]))
    return codec.decode(lab_model.resume(model, clean, noise, steps, first_step).to(clean.device))
