"""The quality lab's flicker and lost objects, on clips whose answer is known, and on a model."""

import pytest
import torch
from small_lab import saved  # puts the lab on the path

# isort: split

import codec
import flow
import model as lab_model
import motion
import video

SIZE = lab_model.TINY
FRAMES, PIXELS = 6, (32, 64)


@pytest.fixture(scope="module")
def tracked():
    return video.tracked_clips(motion.TRACKED_SEED, 4, FRAMES, *PIXELS)


@pytest.fixture(scope="module")
def patcher(tmp_path_factory):
    return lab_model.load(saved(SIZE, tmp_path_factory.mktemp("motion")), torch.float32)


def layers(count=4):
    return list(video._layers(motion.TRACKED_SEED, count, FRAMES, *PIXELS, "cpu"))


def test_a_seeds_clips_are_those_of_earlier_measurements():
    clips = video.clips(11, 2, 3, 8, 16)
    expected = [
        [[0.2530, 0.3778, 0.3828], [0.4600, 0.4891, 0.5260]],
        [[0.4228, 0.3398, 0.2898], [0.4434, 0.4787, 0.5107]],
    ]
    found = clips[0, 0, 4, ::5].reshape(2, 2, 3)
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-4, rtol=0)
    assert clips.mean().item() == pytest.approx(0.3329, abs=1e-4)
    assert clips.std().item() == pytest.approx(0.0970, abs=1e-4)


def test_tracked_clips_are_those_of_their_seed(tracked):
    assert torch.equal(tracked.clips, video.clips(motion.TRACKED_SEED, 4, FRAMES, *PIXELS))
    assert tracked.without.shape == (video.SHAPES, 4, FRAMES, *PIXELS, 3)
    assert tracked.visible.shape == (video.SHAPES, 4, FRAMES, *PIXELS)


def test_a_shape_changes_the_pixels_that_show_it_and_no_others(tracked):
    assert tracked.visible.min() >= 0 and tracked.visible.max() <= 1
    changed = (tracked.clips - tracked.without).abs().amax(dim=-1)
    assert (changed <= tracked.visible + 1e-6).all()  # by at most the distance of two colours
    seen = tracked.visible > 0.99
    assert (changed[seen] > 0.05).float().mean() > 0.95 and 0.02 < seen.float().mean() < 0.2
    for (_, colours), visible in zip(layers()[1:-1], tracked.visible, strict=True):
        whole = visible > 0.9999
        torch.testing.assert_close(tracked.clips[whole], colours[whole], atol=2e-4, rtol=0)


def test_what_is_seen_of_all_layers_adds_up_to_a_pixel(tracked):
    background, pillar = layers()[0], layers()[-1]
    rest = 1 - pillar[0] - tracked.visible.sum(dim=0)  # of the background
    empty = rest > 0.9999
    assert rest.min() > -1e-5 and empty.any()
    torch.testing.assert_close(tracked.clips[empty], background[1][empty], atol=2e-4, rtol=0)


def test_nothing_is_lost_in_the_clips_nor_by_noise_or_blur(tracked):
    noise = torch.randn(tracked.clips.shape, generator=torch.Generator().manual_seed(0))
    flat = tracked.clips.unfold(3, 2, 2).mean(dim=-1).repeat_interleave(2, dim=3)
    for clips in (tracked.clips, (tracked.clips + 0.2 * noise).clamp(0, 1), flat):
        assert motion.lost_objects(clips, tracked).tolist() == [0, 0, 0, 0]


def test_a_shape_that_is_a_little_beside_its_place_is_not_lost(tracked):
    by_sides = [motion.lost_objects(tracked.clips.roll(x, 3), tracked).mean() for x in (-2, 2)]
    assert max(by_sides) < 0.15


def test_only_the_places_where_a_shape_should_be_seen_count():
    clips, visible = torch.zeros(2, 1, 30, 60, 3), torch.zeros(1, 2, 1, 30, 60)
    visible[..., :20] = 1
    two = video.Tracked(clips, torch.ones_like(clips)[None], visible)
    clips = clips.clone()
    clips[0, :, :, 24:] = clips[1, :, :, :24] = 1
    assert motion.lost_objects(clips, two).tolist() == [0, 1]


def test_blur_is_the_mean_of_the_pixels_around():
    one = torch.zeros(2, 1, 1, 24, 30, 3)
    one[1, :, :, 8, 9] = 25
    expected = torch.zeros_like(one)
    expected[1, :, :, 6:11, 7:12] = 1  # 5 of 24 rows
    torch.testing.assert_close(motion._blurred(one), expected)
    even = torch.ones_like(one)
    torch.testing.assert_close(motion._blurred(even), even)  # no darker at the border


def test_everything_is_lost_in_clips_without_shapes(tracked):
    empty = video._picture([layers()[0], layers()[-1]])
    assert motion.lost_objects(empty, tracked).tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("shape", range(video.SHAPES), ids=["behind", "in front"])
def test_a_shape_that_vanishes_is_lost_from_that_frame_on(tracked, shape):
    clips = tracked.clips.clone()
    clips[1, 2:] = tracked.without[shape, 1, 2:]
    lost, counted = motion._lost(clips, tracked)
    expected = torch.zeros_like(lost)
    expected[shape, 1, 2:] = counted[shape, 1, 2:]
    assert torch.equal(lost, expected) and lost.any()
    share = int(lost.sum()) / int(counted[:, 1].sum())
    assert motion.lost_objects(clips, tracked).tolist() == pytest.approx([0, share, 0, 0])


def test_a_hidden_shape_does_not_count(tracked):
    hidden = tracked.visible.clone()
    hidden[0, 2] = 0
    hidden[0, 2, 0, :5, :2] = 1  # 10 of 2048 pixels are too few
    hidden[1, 3] = hidden[0, 3] = 0
    some = video.Tracked(tracked.clips, tracked.without, hidden)
    lost = motion.lost_objects(tracked.without[0], some)
    assert lost[2] == 0 and lost[:2].min() > 0 and lost[3].isnan()


def test_a_video_flickers_as_much_as_itself_and_as_itself_moved(tracked):
    clips = tracked.clips
    assert motion.flicker(clips, clips).abs().max() < 1e-6
    assert motion.flicker(clips.roll(5, 3), clips).abs().max() < 1e-4
    ramp = 0.02 * torch.arange(FRAMES)[:, None, None, None]
    assert motion.flicker(clips + ramp, clips).abs().max() < 1e-4  # an even change


def test_brightness_that_alternates_flickers_and_blur_does_not(tracked):
    clips = tracked.clips
    up_and_down = torch.tensor([1, -1]).repeat(FRAMES // 2)[:, None, None, None]
    little, much = (motion.flicker(clips + x * up_and_down, clips) for x in (0.01, 0.03))
    assert little.min() > 0.1 and (much > 2 * little).all()
    slow = clips.clone()
    slow[:, 1:-1] = (clips[:, 2:] + 2 * clips[:, 1:-1] + clips[:, :-2]) / 4
    flat = clips.unfold(3, 2, 2).mean(dim=-1).repeat_interleave(2, dim=3)
    assert motion.flicker(slow, clips).max() < 0 and motion.flicker(flat, clips).max() < 0.05


def test_flicker_of_a_still_video_is_its_size_in_steps_of_8_bits():
    still = torch.full((1, 4, 2, 2, 3), 0.5)
    up_and_down = torch.tensor([1.0, -1.0, 1.0, -1.0])[:, None, None, None] / 255
    assert motion.flicker(still + up_and_down, still).item() == pytest.approx(17**0.5 - 1, rel=1e-3)


def test_resuming_at_step_0_is_sampling(patcher):
    seeds, steps = (5, 6), 3
    clean = codec.encode(motion.held_out(SIZE, 2).clips)
    noise = lab_model.noise(seeds, SIZE.latent)
    sampled = lab_model.sample(patcher, seeds, SIZE.latent, steps)
    resumed = lab_model.resume(patcher, clean, noise, steps, 0)
    torch.testing.assert_close(resumed, sampled, atol=1e-4, rtol=0)


def test_the_last_step_is_one_from_its_noise(patcher):
    """What `loss` measures at that noise follows from it."""
    clean = codec.encode(motion.held_out(SIZE, 2).clips)
    noise = lab_model.noise((5, 6), SIZE.latent)
    resumed = lab_model.resume(patcher, clean, noise, 3, 2)
    sigma = flow.sigmas(torch.tensor(1 / 3)).item()
    error = ((resumed - clean) / sigma).square().mean(dim=(1, 2, 3, 4))
    expected = lab_model.loss(patcher, clean, noise, sigma)
    torch.testing.assert_close(error, expected, atol=0, rtol=0.02)  # the table of sigmas is coarse


def test_a_models_videos_from_held_out_clips(patcher):
    tracked = motion.held_out(SIZE, 2)
    early, late = (motion.from_clips(patcher, tracked, 12, step) for step in (1, 11))
    assert early.shape == late.shape == tracked.clips.shape
    assert torch.equal(late, motion.from_clips(patcher, tracked, 12, 11))
    error = [(x - tracked.clips).square().mean() for x in (early, late)]
    assert error[1] < error[0] / 2  # more of the clip is given
    assert motion.flicker(late, tracked.clips).isfinite().all()
    assert (
        (0 <= motion.lost_objects(late, tracked)) & (motion.lost_objects(late, tracked) <= 1)
    ).all()
