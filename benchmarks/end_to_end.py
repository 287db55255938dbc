"""How long does a video take, dense and radial? Real sizes, random weights, ComfyUI as a library.

Measures one forward pass of the model as ComfyUI's sampler calls it, in three ways: dense with
ComfyUI's default attention, dense with the fastest exact kernel, and radial. The paper's schedule
is computed from these: its dense steps with the fastest kernel, the others radial; with cfg a step
is two passes. Text encoder and VAE are not included. Weights are bfloat16 and all on the GPU
(ComfyUI's --highvram).

Needs an NVIDIA GPU with 80 GB for the largest, and the Python of your ComfyUI:

    python benchmarks/end_to_end.py --comfyui FOLDER [--case NAME ...] [--profile]

Writes end_to_end-GPU.json. Cases that are not run again stay in it if nothing else changed.
"""

import argparse
import json
import logging
import sys
import time
import traceback
from pathlib import Path

import record
import torch
from end_to_end_cases import CASES, Case
from end_to_end_models import load, override_of, radial, run, shortened, start_comfyui, unload
from end_to_end_profile import host_us, kernels
from end_to_end_timing import timed, timed_by_block, whole_model

WARM_FRAMES = 5
EVERY_STEP = 10_000
REDUCED = (
    "Few of the blocks were run: measured_blocks. seconds = outside the blocks + each dense block "
    "of the radial model as measured + the mean of the others of its kind x how many there are. "
    "Peak memory: as measured, with the weights of the other blocks added."
)


def patched(model, case: Case, **other):
    """The model with a case's settings, radial at every step."""
    settings = {name: getattr(case, name) for name in ("dense_blocks", "sink_frames", "decay")}
    return radial(model, **settings | other)


def forward(model, case: Case, device: torch.device, left_out: int, dense_blocks: int) -> dict:
    """One way to run a case: seconds of a pass, peak memory in GiB, and what ran."""
    override, every = override_of(model), case.model.blocks

    def measure(call):
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        if case.measured is None:
            runs, out = timed(call, device)
            figures = {"s": min(runs), "runs_s": rounded(runs)}
        else:
            net = model.model.diffusion_model
            seconds, blocks, out = timed_by_block(call, net, case.measured, device)
            figures = {
                "s": whole_model(seconds, blocks, every, dense_blocks),
                "measured_s": round(seconds, 3),
                "block_s": {name: rounded(times) for name, times in blocks.items()},
            }
        if device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(device) + left_out
            figures["peak_gib"] = round(peak / 2**30, 2)
        if override is not None:
            figures["ran"] = override.reporter.summary()
        return figures, out

    return run(model, case.model, case.latent, measure)


def rounded(seconds: list[float]) -> list[float]:
    return [round(s, 4) for s in seconds]


def warm_up(model, ways: dict, case: Case):
    """Compile every kernel, make the plan, and let torch allocate the memory of a pass."""
    few = (min(WARM_FRAMES, case.latent[0]), *case.latent[1:])
    one_block = dict.fromkeys(case.model.blocks, 1)

    def once(call):
        return None, call()

    with shortened(model.model.diffusion_model, one_block):
        run(patched(model, case, dense_blocks=0), case.model, case.latent, once)
        run(ways["dense_fastest"], case.model, case.latent, once)
        run(ways["dense"], case.model, few, once)  # nothing to compile, and the slowest


def measure(name: str, device: torch.device, with_profile: bool) -> dict:
    """Run a case in all three ways."""
    case = CASES[name]
    say = Progress(name)
    model, left_out = load(case.model, device, case.measured)
    ways = {
        "radial": patched(model, case),
        "dense_fastest": patched(model, case, dense_steps=EVERY_STEP),
        "dense": model,
    }
    say("loaded")
    warm_up(model, ways, case)
    say("warm")
    found = {}
    for way, patcher in ways.items():
        dense_blocks = case.dense_blocks if way == "radial" else 0
        found[way] = forward(patcher, case, device, left_out, dense_blocks)
        say(f"{way}: {found[way]['s']:.2f} s a forward pass")
    ran = found["radial"]["ran"]
    print(f"  {ran['text']}\n  {found['dense_fastest']['ran']['text']}", flush=True)
    if not ran["radial_calls"]:
        raise RuntimeError("no call ran radial: no figures")
    result = {
        "name": name,
        **described(case),
        **figures(case, *(found[way]["s"] for way in ("dense", "dense_fastest", "radial"))),
        "peak_gib_dense": found["dense"].get("peak_gib"),
        "peak_gib_radial": found["radial"].get("peak_gib"),
        "density": round(ran["density"], 4),
        "backend": ran["backend"],
        "dense_backends": list(found["dense_fastest"]["ran"]["dense_backends"]),
        "measured_blocks": case.measured,
        "runs": {
            way: {key: value for key, value in each.items() if key.endswith("_s")}
            for way, each in found.items()
        },
        "ran": {way: found[way]["ran"]["text"] for way in ("radial", "dense_fastest")},
    }
    if case.measured is not None:
        result["note"] = REDUCED
    if with_profile:
        result["profile"] = profile(model, ways, case, found["radial"]["s"], device)
        say("profiled")
    return result


def described(case: Case) -> dict:
    return {
        "latent": list(case.latent),
        "tokens": case.model.tokens(case.latent),
        "text_tokens": case.model.text[0],
        "dtype": "bfloat16",
        "steps": case.steps,
        "cfg": case.forwards == 2,
        "dense_steps": case.dense_steps,
        "dense_blocks": case.dense_blocks,
        "decay": case.decay,
        "sink_frames": case.sink_frames,
    }


def figures(case: Case, dense: float, fastest: float, radial: float) -> dict:
    """Seconds of a forward pass and of the whole schedule, and how they compare."""
    all_dense = case.forwards * case.steps * dense
    rest = case.steps - case.dense_steps
    schedule = case.forwards * (case.dense_steps * fastest + rest * radial)
    return {
        "dense_s": round(dense, 3),
        "dense_fastest_s": round(fastest, 3),
        "radial_s": round(radial, 3),
        "schedule_dense_s": round(all_dense, 1),
        "schedule_radial_s": round(schedule, 1),
        # The paper has no dense last step; the node has one by default.
        "schedule_with_last_step_s": round(schedule + case.forwards * (fastest - radial), 1),
        "speedup_forward": round(dense / radial, 2),
        "speedup_schedule": round(all_dense / schedule, 2),
        "published_speedup": case.published_speedup,
        "published_s": case.published,
        "times_faster_than": {
            what: round(seconds / schedule, 2) for what, seconds in case.published.items()
        },
    }


def profile(model, ways: dict, case: Case, radial_s: float, device: torch.device) -> dict:
    """Where the time of a pass goes, by kind of kernel, and the host time of our hook."""
    found = {}
    for way in ("radial", "dense_fastest"):
        override = override_of(ways[way])
        found[way] = run(
            *(ways[way], case.model, case.latent),
            lambda call, override=override: kernels(call, override, device),
        )
        print(f"  {way}, {found[way]['wall_s']} s under the profiler:")
        for kind, seconds in found[way]["seconds"].items():
            print(f"    {kind:24}{seconds:9.3f} s")
    radial, few = patched(model, case, dense_blocks=0), dict.fromkeys(case.model.blocks, 2)
    with shortened(model.model.diffusion_model, few):
        us = run(
            *(radial, case.model, case.latent),
            lambda call: host_us(call, override_of(radial), device),
        ) / sum(few.values())
    share = us * 1e-6 * sum(case.model.blocks.values()) / radial_s
    host = {"us_a_block": round(us, 1), "share_of_forward": float(f"{share:.2g}")}
    print(f"    our hook on the host: {host}", flush=True)
    return {**found, "host": host}


def composed(name: str, cases: list[dict]) -> dict:
    """A schedule of the passes that another case measured."""
    case = CASES[name]
    base = next((each for each in cases if each["name"] == case.same_as), None)
    if base is None:
        raise RuntimeError(f"its passes are those of {case.same_as}: run that case first")
    passes = (base[key] for key in ("dense_s", "dense_fastest_s", "radial_s"))
    kept = ("peak_gib_dense", "peak_gib_radial", "density", "backend", "dense_backends")
    return {
        "name": name,
        "passes_of": case.same_as,
        **described(case),
        **figures(case, *passes),
        **{key: base[key] for key in kept},
    }


class Progress:
    """Prints what is done, with the seconds since the previous line and since the start."""

    def __init__(self, name: str):
        self.start = self.last = time.perf_counter()
        print(name, flush=True)

    def __call__(self, what: str):
        time_now = time.perf_counter()
        line = f"  {what} ({time_now - self.last:.1f} s, {time_now - self.start:.1f} s in all)"
        print(line, flush=True)
        self.last = time_now


def kept_cases(results: str, comfyui: str) -> list[dict]:
    """The cases of an earlier run on the same machine with the same versions."""
    path = record.RESULTS / f"{results}.json"
    if not path.exists():
        return []
    old = json.loads(path.read_text())
    new = {"machine": record.machine(), "versions": record.versions(), "comfyui": comfyui}
    return old["cases"] if all(old.get(key) == value for key, value in new.items()) else []


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    # Beside the environment that workflows/headless makes, if this is its Python.
    beside = Path(sys.prefix).parent / "ComfyUI"
    parser.add_argument("--comfyui", type=Path, default=beside, help="ComfyUI's folder")
    parser.add_argument("--case", nargs="*", choices=list(CASES), default=list(CASES))
    parser.add_argument("--profile", action="store_true", help="also measure where the time goes")
    parser.add_argument("--results", default=f"end_to_end-{record.gpu_name()}")
    given = parser.parse_args()
    device, version = start_comfyui(given.comfyui.resolve())
    cases, failed = kept_cases(given.results, version), []
    for name in given.case:
        try:
            if CASES[name].same_as is None:
                case = measure(name, device, given.profile)
            else:
                case = composed(name, cases)
        except Exception:
            traceback.print_exc()
            failed.append(name)
            continue
        finally:
            unload()
        cases = [each for each in cases if each["name"] != name] + [case]
        cases.sort(key=lambda each: list(CASES).index(each["name"]))
        keys = ("name", "dense_s", "dense_fastest_s", "radial_s", "schedule_radial_s")
        print("  " + "  ".join(f"{key} {case[key]}" for key in keys), flush=True)
        record.save(given.results, cases, comfyui=version)
    if failed:
        raise SystemExit(f"Failed: {', '.join(failed)}")


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="  %(message)s")
    main()
