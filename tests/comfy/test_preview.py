"""Radial Mask Preview: its picture against the block map, and its figures against the plan."""

import execution
import folder_paths
import numpy as np
import pytest
import torch
import zoo
from conftest import pack_module, patch

import nodes

core = pack_module("radial_core")
mask_sample = pack_module("radial_core.mask_sample")
canvas = pack_module("nodes.drawing.canvas")
drawing = pack_module("nodes.drawing.mask")
catalog = pack_module("nodes.families.catalog")
models = pack_module("nodes.families.registry")

AUTHORS = {"decay": 0.0, "sink_frames": -1, "dense_blocks": -1}
DEFAULTS = {
    "model_type": "Wan 2.1 1.3B",
    "width": 832,
    "height": 480,
    "length": 81,
    **AUTHORS,
    "block_size": "128",
}


@pytest.fixture(autouse=True)
def temporary_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_paths, "temp_directory", str(tmp_path))


def preview(**inputs):
    """The outputs (image, figures, density, speedup), and what ComfyUI sends to the page."""
    node = nodes.NODE_CLASS_MAPPINGS["RadialMaskPreview"]
    out = node.execute(**{**DEFAULTS, **inputs})
    return *out.args, execution.get_output_from_returns([out], node)[1]


def figures(**inputs):
    return preview(**inputs)[1]


def test_saved_graphs_have_the_same_inputs():
    inputs = nodes.NODE_CLASS_MAPPINGS["RadialMaskPreview"].INPUT_TYPES()
    assert list(inputs["required"]) == list(DEFAULTS)
    assert list(inputs["optional"]) == ["model", "latent"]
    given = {
        name: options.get("default", "Wan 2.1 1.3B")
        for name, (_, options) in inputs["required"].items()
    }
    assert given == DEFAULTS


def test_the_outputs_and_what_the_node_shows():
    image, words, density, speedup, shown = preview()
    assert image.dtype == torch.float32 and image.shape[0] == 1 and image.shape[3] == 3
    assert 0 <= image.min() and image.max() <= 1
    plan = core.make_plan(core.RadialPattern(0.2, 1), core.VideoLayout(21, 30, 52))
    assert density == pytest.approx(plan.density)
    assert 1.2 < speedup < 2.5
    assert "832 x 480, 81 frames: 32,760 tokens, 21 latent frames of 1,560." in words
    assert "as for Wan 2.1: decay 0.2, 1 sink frame, 1 of 30 blocks dense" in words
    assert f"{100 * density:.1f} % of the block map" in words
    assert f"A whole step: about {speedup:.1f}x as fast" in words
    assert shown["text"] == [words]
    assert shown["images"][0]["type"] == "temp"


@pytest.mark.parametrize("model_type", zoo.NAMED)
def test_the_size_is_that_of_comfyuis_empty_latent(model_type):
    size = {"width": 848, "height": 496, "length": 85}
    latent = zoo.NAMED[model_type].latent(**size)
    by_size, by_latent = (
        figures(model_type=model_type, **given).split(": ", 1)[1]
        for given in (size, {"latent": latent})
    )
    assert by_size == by_latent
    frames, rows, columns = latent["samples"].shape[2:]
    patch = catalog.VIDEO_MODELS[model_type].patch
    tokens = -(-rows // patch) * -(-columns // patch)
    assert f"{frames} latent frames of {tokens:,}" in by_size


TYPICAL = [case for case in zoo.CASES if case.typical]


@pytest.mark.parametrize("case", TYPICAL, ids=lambda case: case.name)
def test_a_linked_model_and_latent_replace_the_widgets(case):
    model, latent = case.model(), case.inputs().latent
    frames, rows, columns = case.grid
    words = figures(model_type="Wan 2.2 5B", model=model, latent=latent, dense_blocks=0)
    assert f"{frames} latent frames of {rows * columns:,}" in words
    blocks = models.size_of(model.get_model_object("diffusion_model")).blocks
    assert f"0 of {blocks} blocks dense" in words


def test_a_patched_models_settings_count():
    model = next(case for case in zoo.CASES if case.name == "wan t2v, two videos").model()
    patched = patch(model, decay=0.5, sink_frames=3, dense_blocks=2, block_size=64)
    words = figures(model=patched, decay=2.0, sink_frames=0)
    assert "Settings: decay 0.5, 3 sink frames, 2 of 2 blocks dense, block size 64." in words
    automatic = patch(model, **AUTHORS)
    assert "as for Wan 2.1: decay 0.2, 1 sink frame" in figures(model=automatic)
    assert "as for Wan 2.2: decay 0.8" in figures(model=automatic, model_type="Wan 2.2 A14B")


def test_adaptive_lists_keep_the_budget_of_the_map_that_is_shown():
    model = next(case for case in zoo.CASES if case.name == "wan t2v, two videos").model()
    radial = preview(model=patch(model, **AUTHORS))
    for budget in (1.0, 0.67):
        adaptive = preview(model=patch(model, **AUTHORS, lists="adaptive", budget=budget))
        assert adaptive[2] == pytest.approx(budget * radial[2], rel=0.01)
        assert f"Kept: {100 * adaptive[2]:.1f} % of the block map." in adaptive[1]
        assert f"Lists: adaptive, budget {budget:g}. Each head chooses its own" in adaptive[1]
        assert f"the picture shows the radial mask, with {100 * radial[2]:.1f} %." in adaptive[1]
        assert torch.equal(adaptive[0][0, 184:832, 108:756], radial[0][0, 184:832, 108:756])
    assert adaptive[3] > radial[3] and "adaptive" not in radial[1]


def test_a_large_budget_makes_a_video_too_dense():
    model = next(case for case in zoo.CASES if case.name == "wan t2v, two videos").model()
    words = figures(model=patch(model, **AUTHORS, lists="adaptive", budget=5.0))
    assert "It runs dense, too short: 99.5 % would be kept" in words and "adaptive" not in words


def test_long_videos_have_their_own_preset():
    words = figures(model_type="HunyuanVideo", width=1280, height=720, length=509)
    assert "as for HunyuanVideo: decay 1, 1 sink frame, 2 of 60 blocks dense" in words
    assert "461,056 tokens, 128 latent frames of 3,600 and 256 of text" in words
    assert "Kept: 11.8 % of the block map." in words


def test_the_text_says_what_is_set_by_hand():
    assert "Settings by hand, the rest as for Wan 2.1: decay 0.7," in figures(decay=0.7)
    by_hand = figures(decay=0.7, sink_frames=2, dense_blocks=0)
    assert "Settings: decay 0.7, 2 sink frames, 0 of 30 blocks dense" in by_hand


def test_more_decay_and_blocks_are_slower():
    speeds = [preview(decay=decay)[3] for decay in (0.2, 0.5, 1.0)]
    assert speeds == sorted(speeds, reverse=True)
    assert preview(dense_blocks=0)[3] > preview(dense_blocks=10)[3] > 1
    assert preview(dense_blocks=30)[3] == preview(dense_blocks=10_000)[3] == 1


@pytest.mark.parametrize(
    "size, why",
    [
        ({"length": 1}, "a single frame"),
        ({"length": 9, "width": 256, "height": 256}, "too short: 100.0 % would be kept"),
    ],
)
def test_a_dense_video_gains_nothing(size, why):
    _, words, density, speedup, _ = preview(**size)
    assert (density, speedup) == (1, 1)
    assert f"It runs dense, {why}: nothing to gain." in words


def test_a_very_long_video_is_estimated():
    _, words, density, speedup, _ = preview(
        model_type="Wan 2.1 14B", width=3840, height=2160, length=100_000
    )
    assert "Kept: about 0.13 % of the block map." in words
    assert density < 0.002 and 10 < speedup < 25


COLOURS = {canvas.DROPPED, drawing.SHADE}


def small_case(frames, height, width, prefix, suffix, decay, sink, size):
    return core.RadialPattern(decay, sink, size), core.VideoLayout(
        frames, height, width, prefix, suffix
    )


@pytest.mark.parametrize(
    "pattern, layout",
    [
        small_case(9, 8, 16, 0, 0, 0.2, 1, 128),
        small_case(21, 9, 13, 0, 0, 0.2, 1, 64),
        small_case(13, 11, 17, 77, 0, 0.95, 0, 128),
        small_case(13, 11, 17, 0, 300, 1.0, 2, 64),
        small_case(40, 5, 7, 130, 50, 0.5, 3, 64),
        small_case(60, 2, 3, 0, 0, 1.0, 1, 64),
        small_case(7, 8, 8, 64, 64, 1.0, 7, 64),
    ],
)
def test_each_block_has_the_right_colour(pattern, layout):
    """At 4 pixels a block, the kept blocks are the plan's, and text and sink have their colours."""
    mask = core.make_plan(pattern, layout).block_mask().numpy()
    blocks, size = len(mask), pattern.block_size
    picture = drawing.block_map(mask_sample.sample(pattern, layout), pattern, layout, 4 * blocks)
    picture = np.asarray(picture)
    begin, end = layout.prefix, layout.prefix + layout.video_tokens
    sink_end = begin + min(pattern.sink_frames, layout.frames) * layout.tokens_per_frame

    def holds_text(block):
        return block * size < begin or (layout.suffix and (block + 1) * size > end)

    for p in range(blocks):
        for q in range(blocks):
            pixels = picture[4 * p : 4 * p + 4, 4 * q : 4 * q + 4].reshape(16, 3)
            assert (pixels == pixels[0]).all(), (p, q)
            colour = tuple(pixels[0].tolist())
            assert (colour not in COLOURS) == mask[p, q], (p, q)
            if holds_text(p) or holds_text(q):
                assert colour == canvas.TEXT
            elif q * size < sink_end:
                assert colour == canvas.SINK
            else:
                assert colour not in (canvas.TEXT, canvas.SINK)


def test_bands_pale_with_every_doubling_of_the_distance():
    """With frames of one block each, pixel column d of row 0 is the frame at distance d."""
    pattern, layout = core.RadialPattern(4.0, 0), core.VideoLayout(17, 8, 16)
    mask = core.make_plan(pattern, layout).block_mask()[0]
    picture = drawing.block_map(mask_sample.sample(pattern, layout), pattern, layout, 17)
    kept = [(d, picture.getpixel((d, 0))) for d in range(17) if mask[d]]
    assert kept[0][1] == kept[1][1] == canvas.NEAR
    assert kept[-1] == (16, canvas.FAR)
    by_octave = {max(d.bit_length() - 1, 0): sum(colour) for d, colour in kept}
    assert list(by_octave.values()) == sorted(set(by_octave.values()))


@pytest.mark.parametrize("frames", [128, 2500])
def test_text_and_sink_are_visible_in_long_videos(frames):
    pattern, layout = core.RadialPattern(1.0, 1), core.VideoLayout(frames, 45, 80, prefix=256)
    picture = drawing.block_map(mask_sample.sample(pattern, layout), pattern, layout, 300)
    row = [picture.getpixel((x, 150)) for x in range(7)]
    assert row[:6] == [canvas.TEXT] * 3 + [canvas.SINK] * 3
    assert row[6] not in (canvas.TEXT, canvas.SINK)
    assert [picture.getpixel((150, y)) for y in range(4)][:3] == [canvas.TEXT] * 3


@pytest.mark.parametrize(
    "inputs, message",
    [
        ({"model_type": "Sora"}, "model_type must be one of Wan 2.1 14B, .* got 'Sora'"),
        ({"decay": -1.0}, r"decay must be in \(0, 4\], or 0 for .*, got -1.0"),
        ({"decay": float("nan")}, "got nan"),
        ({"sink_frames": -2}, "sink_frames must be a whole number from 0 up, or -1 .* got -2"),
        ({"dense_blocks": -2}, "dense_blocks must be a whole number from 0 up, or -1 .* got -2"),
        ({"block_size": 96}, "block_size must be 64 or 128, got 96"),
        ({"model": "wan"}, "model must come from a model loader, got 'wan'"),
        ({"latent": 5}, "latent must come from a sampler or an empty latent, got 5"),
        (
            {"latent": {"samples": torch.zeros(1, 4, 64, 64)}},
            r"latent must be a video \(batch x channels x frames x height x width\), "
            "got 1 x 4 x 64 x 64",
        ),
        ({"latent": {"samples": torch.zeros(1, 16, 0, 8, 8)}}, "frames must be a whole number"),
    ],
)
def test_impossible_inputs_are_refused(inputs, message):
    with pytest.raises(ValueError, match=message):
        preview(**inputs)


def test_an_unknown_model_is_refused(wan):
    other = wan.clone()
    other.add_object_patch("diffusion_model", torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match="must be Wan, HunyuanVideo.* or .*, got Linear of torch"):
        preview(model=other)


def test_a_model_that_makes_images_is_refused():
    model, _ = zoo.hunyuan_image()
    with pytest.raises(ValueError, match="model must make videos, got one that makes pictures"):
        preview(model=model)
