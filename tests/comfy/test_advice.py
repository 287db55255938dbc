"""Advice on made-up measurements: its figures and settings, not its wording."""

from conftest import pack_module

core = pack_module("radial_core")
measurements = pack_module("radial_core.measurements")
size = pack_module("radial_core.estimate").ModelSize(20, 12, 128, 3e9)
CallMeasurement = pack_module("radial_core.measure").CallMeasurement
advice = pack_module("nodes.probing.advice").advice

LAYOUT = core.VideoLayout(21, 30, 52)
PATTERNS = tuple(core.RadialPattern(d, s) for s in (0, 1, 2) for d in (0.2, 0.5, 1.0, 4.0))
DENSITIES = tuple(core.make_plan(pattern, LAYOUT).density for pattern in PATTERNS)


def lines(error, sink=1, dense_blocks=1, steps=(3, 6)):
    """The advice for error(decay, sink, step, block). The current decay is 0.5."""
    calls = []
    for step in steps:
        for block in range(size.blocks):
            errors = tuple(error(p.decay, p.sink_frames, step, block) for p in PATTERNS)
            shares = tuple(1 - e for e in errors)
            reading = CallMeasurement(errors, shares, shares, shares, (0.1,) * LAYOUT.frames)
            calls.append(measurements.MeasuredCall(step, block, reading))
    now = PATTERNS.index(core.RadialPattern(0.5, sink))
    fields = (size, LAYOUT, 9, PATTERNS, DENSITIES, now, dense_blocks, "nobody", tuple(calls))
    return advice(measurements.Measurements(*fields)).split("\n")


def line_with(text, *facts):
    """The only line with all these facts."""
    (line,) = (line for line in text if all(fact in line for fact in facts))
    return line


def test_the_current_settings_and_what_was_measured():
    first, *_, last = lines(lambda decay, sink, step, block: 0.1)
    for fact in ("decay 0.5", "1 sink frame", "1 dense block", "nobody", "error 0.097", "90 %"):
        assert fact in first
    for fact in ("20 of 20 blocks", "steps 3, 6 of 9", "21 latent frames"):
        assert fact in last


def test_the_first_larger_decay_that_halves_the_error_or_the_best_one():
    text = lines(lambda decay, sink, step, block: 0.05 / decay)
    line_with(text, "Decay 1 ", "error 0.097 -> 0.049")
    text = lines(lambda decay, sink, step, block: 0.1 * decay**-0.2)
    line_with(text, "Decay 4 ", "error 0.11 -> 0.074")
    line_with(lines(lambda decay, sink, step, block: 0.1), "larger decay", "little")


def test_a_smaller_decay_is_faster():
    line = line_with(lines(lambda *_: 0.1), "Decay 0.2 ")
    assert line.count("shorter") == 2 and "longer" not in line


def test_first_blocks_that_stand_out():
    text = lines(lambda decay, sink, step, block: 0.5 if block < 3 else 0.05)
    line_with(text, "first 2 blocks dense", "error")
    text = lines(lambda decay, sink, step, block: 0.1 if block else 0.0)
    line_with(text, "dense blocks", "less error", "error 0.097 -> 0.097")
    line_with(lines(lambda *_: 0.1), "More dense blocks", "little")
    text = lines(lambda decay, sink, step, block: (0.14 if block < 5 else 0.1) / decay**2)
    line_with(text, "larger decay", "dense blocks")


def test_the_sink():
    text = lines(lambda decay, sink, step, block: (0.3, 0.1, 0.1)[sink])
    line_with(text, "no sink frames", "Keep", "error 0.097 -> 0.29")
    text = lines(lambda decay, sink, step, block: (0.1, 0.1, 0.05)[sink])
    assert "Keep" not in line_with(text, "no sink frames", "error 0.097 -> 0.097")
    text = lines(lambda decay, sink, step, block: (0.1, 0.05, 0.04)[sink], sink=0)
    line_with(text, "1 sink frame", "error 0.097 -> 0.049")


def test_steps_that_stand_out():
    text = lines(lambda decay, sink, step, block: 0.6 / step)
    line = line_with(text, "Step 3 has 2.0 times", "step 6")
    assert line.index("dense_steps") < line.index("dense_last_steps")  # the first one helps more
    text = lines(lambda decay, sink, step, block: 0.01 * step)
    line = line_with(text, "Step 6 has 2.0 times", "step 3")
    assert line.index("dense_last_steps") < line.index("dense_steps")
    assert not any("dense_last_steps" in line for line in lines(lambda *_: 0.1))


def test_a_mask_that_drops_nothing():
    text = lines(lambda *_: 0.0)
    assert "drops nothing" in text[1] and len(text) == 3
