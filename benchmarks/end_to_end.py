"""How long does a video take, dense and radial? Real sizes, random weights, ComfyUI as a library.

Measures one forward pass of the model as ComfyUI's sampler calls it, in these ways:

dense           with ComfyUI's default attention, exact
dense_fastest   with the fastest exact kernel
radial          exact; its dense blocks as dense_fastest
dense_8bit      with the fastest kernel in 8 bits
radial_8bit     in 8 bits, its dense blocks as dense_8bit; a call that runs exact is an error
radial_adaptive radial, with adaptive lists of as many blocks; adaptive_067: with 0.67 of them;
                adaptive_067_8bit: these in 8 bits. look_s: what their first pass, in which they
                look, takes longer. Where random weights look is nowhere in particular
core_sparse     the kernel of ComfyUI's node Model Sparse Attention (8 bits) on the same calls

The paper's schedule is computed from these: its dense steps with the fastest kernel, the others
radial, all of them exact or all in 8 bits; with cfg a step is two passes. Text encoder and VAE are
not included. Weights are bfloat16 and all on the GPU (ComfyUI's --highvram).

Needs an NVIDIA GPU with 80 GB for the largest, and the Python of your ComfyUI:

    python benchmarks/end_to_end.py --comfyui FOLDER [--case NAME ...] [--ways WAY ...] [--profile]

Writes end_to_end-GPU.json. Cases and ways that are not run again stay in it, on the same machine
with the same versions; a case says which of its ways are of an earlier run.
"""

import argparse
import json
import logging
import sys
import time
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # `python -P` does not do this

import record
import torch
from end_to_end_cases import CASES, Case
from end_to_end_figures import case_of, composed, is_same
from end_to_end_models import load, override_of, run, shortened, start_comfyui, unload
from end_to_end_profile import host_us, kernels
from end_to_end_ways import DENSE_STEPS, EXACT, WAYS, forward, patched, warm_up

NOT_RUN = {"sageattention"}  # a package that none of the ways runs


def measure(
    name: str, device: torch.device, ways: list[str], before: dict | None, with_profile: bool
) -> tuple[dict | None, list[str]]:
    """The entry of a case, None if there is nothing to write, and the ways that failed."""
    case, found, failed, more = CASES[name], {}, [], {}
    say = Progress(name)
    model, left_out = load(case.model, device, case.measured)
    say("loaded")
    for way in ways:
        try:
            warm_up(model, way, case, DENSE_STEPS.get(way) in found)
            say(f"{way}: warm")
            patcher = WAYS[way](model, case)
            found[way] = forward(way, patcher, case, device, left_out)
        except Exception:  # the other ways' figures are as good without it
            traceback.print_exc()
            failed.append(way)
            continue
        say(f"{way}: {found[way]['s']:.2f} s a forward pass")
        if "ran" in found[way]:
            print(f"    {found[way]['ran']['text']}", flush=True)
    if with_profile and "radial" in found:
        more["profile"] = profile(model, case, found["radial"]["s"], device)
        say("profiled")
    return (case_of(name, found, before, **more) if found else None), failed


def profile(model, case: Case, radial_s: float, device: torch.device) -> dict:
    """Where the time of a pass goes, by kind of kernel, and the host time of our hook.

    If few of the blocks are run, none of them is dense: it would count for too much.
    """
    found = {}
    radial = patched(model, case, precision=EXACT, dense_blocks=0)
    for way in ("radial", "dense_fastest"):
        few_radial = way == "radial" and case.measured is not None
        patcher = radial if few_radial else WAYS[way](model, case)
        override = override_of(patcher)
        found[way] = run(
            *(patcher, case.model, case.latent),
            lambda call, override=override: kernels(call, override, device),
        )
        print(f"  {way}, {found[way]['wall_s']} s under the profiler:")
        for kind, seconds in found[way]["seconds"].items():
            print(f"    {kind:24}{seconds:9.3f} s")
    few = dict.fromkeys(case.model.blocks, 2)
    with shortened(model.model.diffusion_model, few):
        us = run(
            *(radial, case.model, case.latent),
            lambda call: host_us(call, override_of(radial), device),
        ) / sum(few.values())
    share = us * 1e-6 * sum(case.model.blocks.values()) / radial_s
    host = {"us_a_block": round(us, 1), "share_of_forward": float(f"{share:.2g}")}
    print(f"    our hook on the host: {host}", flush=True)
    return {**found, "host": host}


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


def changes(results: str, comfyui: str) -> list[str]:
    """What has changed since an earlier run wrote a file: "triton 3.6.0, now 3.7.0"; [] if nothing.

    A package that none of the ways runs does not count.
    """
    path = record.RESULTS / f"{results}.json"
    if not path.exists():
        return []
    old = json.loads(path.read_text())
    then, now = (
        {"machine": machine, "ComfyUI": version, **versions}
        for machine, version, versions in (
            (old["machine"], old.get("comfyui"), old["versions"]),
            (record.machine(), comfyui, record.versions()),
        )
    )
    keys = [key for key in {**then, **now} if key not in NOT_RUN]
    return [f"{k} {then.get(k)}, now {now.get(k)}" for k in keys if then.get(k) != now.get(k)]


def kept_cases(results: str) -> list[dict]:
    """The cases of an earlier run."""
    path = record.RESULTS / f"{results}.json"
    return json.loads(path.read_text())["cases"] if path.exists() else []


def main(arguments: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    # Beside the environment that workflows/headless makes, if this is its Python.
    beside = Path(sys.prefix).parent / "ComfyUI"
    parser.add_argument("--comfyui", type=Path, default=beside, help="ComfyUI's folder")
    parser.add_argument("--case", nargs="*", choices=list(CASES), default=list(CASES))
    parser.add_argument("--ways", nargs="*", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--profile", action="store_true", help="also measure where the time goes")
    parser.add_argument("--results", default=f"end_to_end-{record.gpu_name()}")
    given = parser.parse_args(arguments)
    if given.profile and "radial" not in given.ways:
        parser.error("--profile needs the way radial")
    ways = [way for way in WAYS if way in given.ways]
    device, version = start_comfyui(given.comfyui.resolve())
    changed = changes(given.results, version)
    if changed and ways != list(WAYS):
        raise SystemExit(
            f"{given.results}.json can't be added to: {'; '.join(changed)}. "
            "Measure all ways, or name another file: --results NAME"
        )
    if changed:
        print(f"Nothing of {given.results}.json is kept: {'; '.join(changed)}", flush=True)
    cases, failed = [] if changed else kept_cases(given.results), []
    for name in given.case:
        before = next((each for each in cases if is_same(name, each)), None)
        try:
            if CASES[name].same_as is None:
                case, failed_ways = measure(name, device, ways, before, given.profile)
                failed += [f"{name}: {way}" for way in failed_ways]
            else:
                case = composed(name, cases)
        except Exception:
            traceback.print_exc()
            failed.append(name)
            continue
        finally:
            unload()
        if case is None:
            continue
        cases = [each for each in cases if each["name"] != name] + [case]
        cases.sort(key=lambda each: list(CASES).index(each["name"]))
        keys = [f"{way}_s" for way in WAYS] + [key for key in case if key.startswith("schedule_")]
        print("  " + "  ".join(f"{key} {case[key]}" for key in keys if key in case), flush=True)
        record.save(given.results, cases, comfyui=version)
    if failed:
        raise SystemExit(f"Failed: {', '.join(failed)}")


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="  %(message)s")
    main()
