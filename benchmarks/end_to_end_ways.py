"""The ways to run a case of end_to_end.py, each measured in one forward pass."""

import torch
from end_to_end_cases import Case
from end_to_end_core import core_sparse, core_sparse_calls
from end_to_end_models import override_of, radial, run, shortened
from end_to_end_timing import now, timed, timed_by_block, whole_model

from radial_core.backends.contract import PRECISIONS

WARM_FRAMES = 5
EVERY_STEP = 10_000
EXACT, EIGHT_BIT = PRECISIONS


def patched(model, case: Case, **other):
    """The model with a case's settings, radial at every step."""
    settings = {name: getattr(case, name) for name in ("dense_blocks", "sink_frames", "decay")}
    return radial(model, **settings | other)


def adaptive(model, case: Case, **other):
    """The same with adaptive lists, which it looks for in the first pass."""
    return patched(model, case, lists="adaptive", **other)


# Way -> a MODEL that runs it. A radial way stands after the dense way of its dense steps.
WAYS = {
    "dense": lambda model, case: model,
    "dense_fastest": lambda model, case: patched(
        model, case, dense_steps=EVERY_STEP, precision=EXACT
    ),
    "radial": lambda model, case: patched(model, case, precision=EXACT),
    "dense_8bit": lambda model, case: patched(
        model, case, dense_steps=EVERY_STEP, precision=EIGHT_BIT
    ),
    "radial_8bit": lambda model, case: patched(model, case, precision=EIGHT_BIT),
    "radial_adaptive": lambda model, case: adaptive(model, case, precision=EXACT),
    "adaptive_067": lambda model, case: adaptive(model, case, precision=EXACT, budget=0.67),
    "adaptive_067_8bit": lambda model, case: adaptive(
        model, case, precision=EIGHT_BIT, budget=0.67
    ),
    "core_sparse": core_sparse,
}
DENSE_STEPS = {
    "radial": "dense_fastest",
    "radial_8bit": "dense_8bit",
    "radial_adaptive": "dense_fastest",
    "adaptive_067": "dense_fastest",
    "adaptive_067_8bit": "dense_8bit",
}


def is_adaptive(way: str) -> bool:
    return "adaptive" in way


def precision(way: str) -> str:
    return EIGHT_BIT if way.endswith("8bit") else EXACT


def blocks_to_run(way: str, case: Case) -> dict[str, int] | None:
    """How many of each list of blocks; None for all. Dense blocks are all alike."""
    return case.measured if way in DENSE_STEPS else case.measured_dense or case.measured


def warm_up(model, way: str, case: Case, is_dense_warm: bool):
    """Compile a way's kernels, make the plan, and let torch allocate the memory of a pass.

    is_dense_warm: whether the way of its dense steps has run already.
    """
    patchers, latent = [WAYS[way](model, case)], case.latent
    if way == "dense":  # nothing to compile, and the slowest
        latent = (min(WARM_FRAMES, latent[0]), *latent[1:])
    elif way in DENSE_STEPS:
        make = adaptive if is_adaptive(way) else patched
        patchers = [make(model, case, dense_blocks=0, precision=precision(way))]
        if case.dense_blocks and not is_dense_warm:
            patchers.append(WAYS[DENSE_STEPS[way]](model, case))
    with shortened(model.model.diffusion_model, dict.fromkeys(case.model.blocks, 1)):
        for patcher in patchers:
            run(patcher, case.model, latent, lambda call: (None, call()))


def forward(way: str, model, case: Case, device: torch.device, left_out: int) -> dict:
    """Seconds of a pass, peak memory in GiB, and what ran.

    left_out: bytes of the weights that the whole model would have besides. Raises RuntimeError if
    no call was sparse, or one was not in the precision that the way stands for: such figures would
    be those of another way.
    """
    override, every, blocks = override_of(model), case.model.blocks, blocks_to_run(way, case)
    net = model.model.diffusion_model

    def measure(call):
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        first_s = None
        if is_adaptive(way):  # the first pass looks
            start = now(device)
            call()
            first_s = now(device) - start
        if blocks is None:
            runs, out = timed(call, device)
            figures = {"s": min(runs), "runs": {"runs_s": rounded(runs)}}
        else:
            seconds, times, out = timed_by_block(call, net, blocks, device)
            dense_blocks = case.dense_blocks if way in DENSE_STEPS else 0
            figures = {
                "s": whole_model(seconds, times, every, dense_blocks),
                "runs": {
                    "measured_s": round(seconds, 3),
                    "block_s": {name: rounded(each) for name, each in times.items()},
                },
            }
        if first_s is not None:
            pass_s = min(runs) if blocks is None else seconds
            figures["look_s"] = max(first_s - pass_s, 0.0)
        if device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(device) + left_out
            figures["peak_gib"] = round(peak / 2**30, 2)
        if override is not None:
            figures["ran"] = override.reporter.summary()
        return figures, out

    if blocks is None:
        found = run(model, case.model, case.latent, measure)
    else:
        with shortened(net, blocks):
            found = run(model, case.model, case.latent, measure)
    if override is not None and (fault := why_not_this_way(way, found["ran"])):
        raise RuntimeError(f"no figures for {way}: {fault}. {found['ran']['text']}")
    if core_sparse_calls(model) == 0:
        raise RuntimeError(f"no figures for {way}: no call ran its kernel")
    return found


def why_not_this_way(way: str, ran: dict) -> str | None:
    """Why what ran is another way than the one that was asked for; None if it is that one.

    ran: as RunReporter.summary has it.
    """
    if (way in DENSE_STEPS) != bool(ran["radial_calls"]):
        return f"{ran['radial_calls']} calls were radial"
    precisions = {*ran["precisions"], *ran["dense_precisions"]}
    if precisions == {precision(way)}:
        return None
    return f"calls ran {' and '.join(sorted(map(str, precisions)))}"


def rounded(seconds: list[float]) -> list[float]:
    return [round(s, 4) for s in seconds]
