"""The sentences, on measurements made up so that each has something to say."""

from conftest import pack_module

core = pack_module("radial_core")
found = pack_module("radial_core.measurements")
size = pack_module("radial_core.estimate").ModelSize(20, 12, 128, 3e9)
reading = pack_module("radial_core.measure").Reading
findings = pack_module("nodes.probing.findings").findings

LAYOUT = core.VideoLayout(21, 30, 52)
PATTERNS = tuple(core.RadialPattern(d, s) for s in (0, 1, 2) for d in (0.2, 0.5, 1.0, 4.0))
DENSITIES = tuple(core.make_plan(pattern, LAYOUT).density for pattern in PATTERNS)


def lines(error, sink=1, dense_blocks=1, steps=(3, 6)):
    """error(decay, sink, step, block); decay is 0.5 now."""
    calls = []
    for step in steps:
        for block in range(size.blocks):
            errors = tuple(error(p.decay, p.sink_frames, step, block) for p in PATTERNS)
            shares = tuple(1 - e for e in errors)
            one = reading(errors, shares, shares, shares, (0.1,) * LAYOUT.frames)
            calls.append(found.Measured(step, block, one))
    now = PATTERNS.index(core.RadialPattern(0.5, sink))
    everything = (size, LAYOUT, 9, PATTERNS, DENSITIES, now, dense_blocks, "nobody", tuple(calls))
    return findings(found.Measurements(*everything)).split("\n")


def test_where_it_stands_and_what_was_measured():
    first, *_, last = lines(lambda decay, sink, step, block: 0.1)
    assert first.startswith("Now (decay 0.5, 1 sink frame, 1 dense block; the settings of nobody):")
    assert "error 0.097, 90 % of the attention kept; by estimate attention is " in first
    assert last.startswith(
        "Measured: 20 of 20 blocks in steps 3, 6 of 9 (from 0), 21 latent frames"
    )


def test_a_wider_mask_that_halves_the_error_or_the_best_there_is():
    text = lines(lambda decay, sink, step, block: 0.05 / decay)
    assert any(x.startswith("Decay 1 in place of 0.5: error 0.097 -> 0.049, att") for x in text)
    text = lines(lambda decay, sink, step, block: 0.1 * decay**-0.2)
    assert any(x.startswith("Decay 4 in place of 0.5: error 0.11 -> 0.074, att") for x in text)
    assert "A larger decay would change little." in lines(lambda decay, sink, step, block: 0.1)


def test_a_narrower_mask_is_faster():
    (line,) = (x for x in lines(lambda *_: 0.1) if x.startswith("Decay 0.2 in place of 0.5"))
    assert line.count("shorter") == 2 and "longer" not in line


def test_first_blocks_that_stand_out():
    text = lines(lambda decay, sink, step, block: 0.5 if block < 3 else 0.05)
    assert any(x.startswith("With the first 2 blocks dense: error ") for x in text)
    text = lines(lambda decay, sink, step, block: 0.1 if block else 0.0)
    less = "The dense blocks have less error than the others: radial, error 0.097 -> 0.097, att"
    assert any(x.startswith(less) for x in text)
    assert "More dense blocks would change little." in lines(lambda *_: 0.1)
    text = lines(lambda decay, sink, step, block: (0.14 if block < 5 else 0.1) / decay**2)
    assert "More dense blocks do less than a larger decay does in the same time." in text


def test_the_sink():
    text = lines(lambda decay, sink, step, block: (0.3, 0.1, 0.1)[sink])
    assert any(
        x.startswith("Keep the sink: with no sink frames, error 0.097 -> 0.29") for x in text
    )
    text = lines(lambda decay, sink, step, block: (0.1, 0.1, 0.05)[sink])
    assert any(x.startswith("With no sink frames: error 0.097 -> 0.097") for x in text)
    text = lines(lambda decay, sink, step, block: (0.1, 0.05, 0.04)[sink], sink=0)
    assert any(x.startswith("With 1 sink frame: error 0.097 -> 0.049") for x in text)


def test_steps_that_stand_out():
    text = lines(lambda decay, sink, step, block: 0.6 / step)
    assert (
        "Step 3 has 2.0 times the error of step 6: dense_steps help more than dense_last_steps."
        in text
    )
    text = lines(lambda decay, sink, step, block: 0.01 * step)
    assert (
        "Step 6 has 2.0 times the error of step 3: dense_last_steps help more than dense_steps."
        in text
    )
    assert not any("times the error of step" in line for line in lines(lambda *_: 0.1))


def test_a_mask_that_drops_nothing():
    text = lines(lambda *_: 0.0)
    assert text[1] == "The mask drops nothing: the video is too short." and len(text) == 3
