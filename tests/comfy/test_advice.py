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


BUDGETS = (1.0, 0.67, 0.5, 0.33)


def lines(error, sink=1, dense_blocks=1, steps=(3, 6), adaptive=None, budget=None, why=""):
    """The advice for error(decay, sink, step, block), and maybe adaptive(budget). The current decay
    is 0.5. budget: that of the run.
    """
    calls, budgets = [], () if adaptive is None else BUDGETS
    for step in steps:
        for block in range(size.blocks):
            errors = tuple(error(p.decay, p.sink_frames, step, block) for p in PATTERNS)
            errors += tuple(map(adaptive, budgets)) if budgets else ()
            shares = tuple(1 - e for e in errors)
            reading = CallMeasurement(errors, shares, shares, shares, (0.1,) * LAYOUT.frames)
            calls.append(measurements.MeasuredCall(step, block, reading))
    now = PATTERNS.index(core.RadialPattern(0.5, sink))
    densities = DENSITIES + tuple(DENSITIES[now] * budget for budget in budgets)
    fields = (size, LAYOUT, 9, PATTERNS, densities, now, dense_blocks, "nobody", tuple(calls))
    return advice(measurements.Measurements(*fields, budgets, budget, why)).split("\n")


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


def test_adaptive_lists_that_are_as_exact_with_fewer_blocks():
    text = lines(
        lambda *_: 0.1, adaptive=lambda budget: {0.33: 0.2, 0.5: 0.13, 1.0: 0.08}.get(budget, 0.1)
    )
    line = line_with(text, "budget 0.67", "a third fewer blocks", "error 0.097 -> 0.097", "shorter")
    assert "budget 1: error 0.097 -> 0.078, attention the same" in line
    assert "in the very step" in line  # what is not measured is said
    for least in (0.1, 0.2):
        text = lines(lambda *_: 0.1, adaptive=lambda budget, least=least: least / budget)
        line_with(text, "Adaptive lists would change little")
    assert not any("daptive" in line for line in lines(lambda *_: 0.1))  # an older version's


def test_a_run_with_adaptive_lists():
    text = lines(lambda *_: 0.1, adaptive=lambda budget: 0.06 / budget, budget=0.67)
    for fact in ("decay 0.5", "adaptive lists at budget 0.67", "error 0.087", "91 %"):
        assert fact in text[0]
    line_with(text, "radial lists instead", "error 0.087 -> 0.097", "attention", "longer")
    assert not any("decay" in line for line in text[1:])  # they were measured with radial lists


def test_adaptive_lists_that_could_not_be_measured():
    line_with(lines(lambda *_: 0.1, why="OutOfMemoryError: full"), "Adaptive", "OutOfMemoryError")


def test_a_mask_that_drops_nothing():
    text = lines(lambda *_: 0.0)
    assert "drops nothing" in text[1] and len(text) == 3
