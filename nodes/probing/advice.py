"""Advice on the settings, in sentences, from what the probe measured."""

from ...radial_core.measurements import Measurements
from ...radial_core.search import Setting, current_setting, setting

HALF = 0.5  # of the error: the first larger decay that reaches this is proposed
LESS = 0.85  # of the error, at most: a change worth a sentence
SAME = 1.03  # of the error, at most: a sink this close to unneeded can be left out
FIRST_BLOCKS = 0.25  # of all blocks: no more than this share is proposed as dense
UNEVEN = 1.5  # times the error of another step: worth a sentence
SHARES = {0.67: "a third fewer", 0.5: "half the", 0.33: "a third of the"}  # blocks, by budget
AGING = (
    "These lists were chosen in the very step that they were measured in. In a run they are chosen "
    "early, and stay: expect a larger error in later steps. What the lists drop is estimated and "
    "added, as in a run."
)


def advice(m: Measurements) -> str:
    """Several lines: how the current settings do, and what to change."""
    now = current_setting(m)
    if min(m.by_step(m.now).values()) == 0:
        too_short = "The mask drops nothing: the video is too short."
        return "\n".join((_current(m, now), too_short, _measured(m)))
    lines = [_current(m, now)]
    if now.budget is None:
        lines += [_larger_decay(m, now), _smaller_decay(m, now), _blocks(m, now), _sink(m, now)]
        lines += [_adaptive(m, now)]
    else:
        lines += [_radial(m, now), AGING]
    lines += [_steps(m), _measured(m)]
    return "\n".join(line for line in lines if line)


def describe(each: Setting) -> str:
    """Settings in the node's own terms."""
    blocks = f"{each.dense_blocks} dense block{'' if each.dense_blocks == 1 else 's'}"
    lists = "" if each.budget is None else f", adaptive lists at budget {each.budget:g}"
    return f"decay {each.decay:g}, {_frames(each.sink_frames)}, {blocks}{lists}"


def _frames(sink: int) -> str:
    return f"{sink or 'no'} sink frame{'' if sink == 1 else 's'}"


def _current(m: Measurements, now: Setting) -> str:
    return (
        f"Now ({describe(now)}; the settings of {m.settings_of}): error {now.error:.2g}, "
        f"{_percent(m.coverage(m.now))} of the attention kept. Estimated speed-up over dense: "
        f"attention {now.attention_speedup:.2g}x, a step {now.speedup:.2g}x."
    )


def _larger_decay(m: Measurements, now: Setting) -> str | None:
    """The first larger decay that halves the error, else the one with the smallest error."""
    wider = [_with(m, now, decay=decay) for decay in m.decays if decay > now.decay]
    halved = [each for each in wider if each.error <= HALF * now.error]
    best = halved[0] if halved else min(wider, key=lambda each: each.error, default=None)
    if best is None or best.error > LESS * now.error:
        return "A larger decay would change little."
    return f"Decay {best.decay:g} instead of {now.decay:g}: {_change(now, best)}."


def _smaller_decay(m: Measurements, now: Setting) -> str | None:
    """The next smaller decay."""
    smaller = [decay for decay in m.decays if decay < now.decay]
    if not smaller:
        return None
    next_one = _with(m, now, decay=smaller[-1])
    if next_one.attention_speedup <= now.attention_speedup:
        return None
    return f"Decay {next_one.decay:g} instead of {now.decay:g}: {_change(now, next_one)}."


def _blocks(m: Measurements, now: Setting) -> str | None:
    """Whether a few more dense blocks are worth it, and whether the current ones are."""
    wider = [_with(m, now, decay=decay) for decay in m.decays if decay > now.decay]
    beaten = False
    for blocks in range(now.dense_blocks + 1, int(m.size.blocks * FIRST_BLOCKS) + 1):
        more = setting(m, m.current, blocks)
        if more.error <= LESS * now.error:
            beaten = any(_beats(each, more) for each in wider)
            if not beaten:
                first = "first block" if blocks == 1 else f"first {blocks} blocks"
                return f"With the {first} dense: {_change(now, more)}."
    if 0 < now.dense_blocks < m.size.blocks:
        none = setting(m, m.current, 0)
        dense = (none.error**2 - now.error**2) / now.dense_blocks
        others = now.error**2 / (m.size.blocks - now.dense_blocks)
        if dense < LESS**2 * others:
            change = _change(now, none)
            return f"The dense blocks have less error than the others. With none of them: {change}."
    if beaten:
        return "A larger decay does more than more dense blocks do in the same time."
    return "More dense blocks would change little."


def _beats(a: Setting, b: Setting) -> bool:
    return a.error <= b.error and a.attention_speedup >= b.attention_speedup


def _sink(m: Measurements, now: Setting) -> str | None:
    fewer = [sink for sink in m.sinks if sink < now.sink_frames]
    if fewer:
        less = _with(m, now, sink=fewer[-1])
        if less.error <= SAME * now.error:
            return f"With {_frames(less.sink_frames)}: {_change(now, less)}."
    more = [sink for sink in m.sinks if sink > now.sink_frames]
    for sink in more:
        with_more = _with(m, now, sink=sink)
        if with_more.error <= LESS * now.error:
            return f"With {_frames(sink)}: {_change(now, with_more)}."
    if fewer and less.error > now.error / LESS:
        return f"Keep the sink: with {_frames(less.sink_frames)}, {_change(now, less)}."
    return None


def _adaptive(m: Measurements, now: Setting) -> str | None:
    """What adaptive lists would do: as exact in less time, or more exact in the same."""
    if not m.budgets:
        why = m.why_not_adaptive
        return f"Adaptive lists could not be measured: {why}" if why else None
    settings = {budget: setting(m, m.adaptive(budget), now.dense_blocks) for budget in m.budgets}
    as_exact = [budget for budget in m.budgets if settings[budget].error <= SAME * now.error]
    less, same, found = min(as_exact, default=1.0), settings.get(1.0), []
    if less < 1:
        blocks = f", with {SHARES[less]} blocks" if less in SHARES else ""
        found.append(
            f"Adaptive lists at budget {less:g} have as small an error as radial ones now{blocks}: "
            f"{_change(now, settings[less])}."
        )
    if same and same.error <= LESS * now.error:
        found.append(f"Adaptive lists at budget 1: {_change(now, same)}.")
    if not found:
        return "Adaptive lists would change little."
    return " ".join((*found, AGING))


def _radial(m: Measurements, now: Setting) -> str:
    """What radial lists would do in the place of the adaptive ones of the run."""
    radial = setting(m, m.current, now.dense_blocks)
    return f"With radial lists instead of adaptive ones: {_change(now, radial)}."


def _steps(m: Measurements) -> str | None:
    """Whether the first or the last measured step needs dense attention more than the other."""
    errors = m.by_step(m.now)
    first, last = min(errors), max(errors)
    less, more = sorted((first, last), key=errors.get)
    if errors[more] < UNEVEN * errors[less]:
        return None
    help_more, help_less = "dense_steps", "dense_last_steps"
    if more == last:
        help_more, help_less = help_less, help_more
    return (
        f"Step {more} has {errors[more] / errors[less]:.1f} times the error of step {less}: "
        f"{help_more} help more than {help_less}."
    )


def _measured(m: Measurements) -> str:
    steps = ", ".join(map(str, m.measured_steps))
    blocks = len({call.block for call in m.calls})
    return (
        f"Measured: {blocks} of {m.size.blocks} blocks in step{'s' if ',' in steps else ''} "
        f"{steps} of {m.steps} (from 0), {m.layout.frames} latent frames, {m.layout.tokens:,} "
        "tokens. Error: relative RMS of the output of self-attention."
    )


def _with(m: Measurements, now: Setting, decay=None, sink=None) -> Setting:
    """The current settings with a different decay or sink."""
    pattern = m.index(
        now.decay if decay is None else decay, now.sink_frames if sink is None else sink
    )
    return setting(m, pattern, now.dense_blocks)


def _change(a: Setting, b: Setting) -> str:
    attention = a.attention_speedup / b.attention_speedup - 1
    step = a.speedup / b.speedup - 1
    return (
        f"error {a.error:.2g} -> {b.error:.2g}, attention {_longer(attention)}, "
        f"step {_longer(step)}"
    )


def _longer(share: float) -> str:
    if abs(share) < 0.005:
        return "the same"
    return f"{abs(share):.0%} {'longer' if share > 0 else 'shorter'}".replace("%", " %")


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
