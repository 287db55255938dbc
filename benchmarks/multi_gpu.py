"""How much faster is a pass on several GPUs? Real sizes, random weights, ComfyUI as a library.

Measures one forward pass of the model as ComfyUI's sampler calls it, on one GPU and with the node
Radial Multi-GPU on several, in the ways of end_to_end.py (by default dense_fastest and radial).
A pass that did not run on as many GPUs as it should is an error. Writes for each:

pass_s               by number of GPUs
speedup              of the passes
relative_difference  of the output on several GPUs from that on one: RMS; _max: the largest
                     difference over the largest value; same_bits: whether there is none at all
regions              seconds of this process's GPU in a pass: attention (self-attention over the
                     video), linear (layers), communication (with the copies, and waiting for a
                     slower GPU), rest
peak_gib             memory that each GPU has in use after the passes, by nvidia-smi, with what
                     torch keeps for reuse, on the other GPUs also from earlier ways;
                     allocated_gib: torch's peak in this process
host_gib             resident memory of each process, ComfyUI's first

Weights are bfloat16 and all on the GPU. Text encoder and VAE are not included. Needs Linux, NVIDIA
GPUs with 80 GB each, and the Python of your ComfyUI:

    python benchmarks/multi_gpu.py --comfyui FOLDER [--gpus 2 4] [--case NAME ...] [--ways WAY ...]
    python benchmarks/multi_gpu.py --comfyui FOLDER --tiny      a dry run, also on a CPU

Writes multi_gpu-GPU.json, or multi_gpu-GPU-tiny.json. Of an earlier run nothing is kept.
"""

import argparse
import importlib
import logging
import os
import sys
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # `python -P` does not do this

import end_to_end_timing
import record
import torch
from end_to_end import Progress
from end_to_end_cases import CASES, Case
from end_to_end_models import PACK, load, override_of, radial_node, run, start_comfyui, unload
from end_to_end_ways import DENSE_STEPS, WAYS, why_not_this_way
from multi_gpu_memory import card_gib, host_gib, links
from multi_gpu_regions import linear_seconds, regions
from training_cases import TINY

MEASURED = ("wan2.1-14b-69f-768p", "hunyuan-117f-768p")
WITH_RECORD = [way for way in WAYS if way in DENSE_STEPS or way in DENSE_STEPS.values()]
SMALL = {name: Case(TINY[name].model, TINY[name].latent, dense_blocks=0) for name in TINY}
CPU_CARDS = "RADIAL_ATTENTION_CPU_CARDS"


def with_gpus(model, gpus: int):
    """The MODEL with the node; as it is for one GPU."""
    if gpus == 1:
        return model
    radial_node()  # loads the pack
    node = importlib.import_module(f"{PACK}.nodes.multi_gpu").RadialMultiGPU
    return node.execute(model, gpus=gpus).args[0]


def measure(model, way: str, case: Case, gpus: int, device: torch.device) -> tuple[dict, object]:
    """The figures of a way on that many GPUs, and the pass's output on the CPU."""
    patcher = with_gpus(WAYS[way](model, case), gpus)
    override, kept = override_of(patcher), None
    on_gpu = device.type == "cuda"

    def passes(call):
        nonlocal kept
        if on_gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
        call()  # starts processes, sends weights, compiles kernels, makes plans
        runs, out = end_to_end_timing.timed(call, device)
        kept = [x.float().cpu() for x in (out.unbind() if out.is_nested else [out])]
        figures = {"pass_s": min(runs), "runs_s": [round(s, 4) for s in runs]}
        figures |= {"host_gib": host_gib(), "peak_gib": card_gib(gpus) if on_gpu else []}
        if on_gpu:
            figures["allocated_gib"] = round(torch.cuda.max_memory_allocated(device) / 2**30, 2)
        return figures, out

    found = run(patcher, case.model, case.latent, passes)
    found["ran"] = ran_on(override, way, gpus)
    run(patcher, case.model, case.latent, lambda call: (None, call()))  # one pass, for its record
    ran_on(override, way, gpus)
    one = override.runs[-1].read()
    linear = run(patcher, case.model, case.latent, lambda call: linear_seconds(call, device))
    found["regions"] = regions(found["pass_s"], one, linear)
    return found, kept


def ran_on(override, way: str, gpus: int) -> str:
    """What the newest run says of itself. Raises RuntimeError if it is not what was asked for."""
    summary = importlib.import_module(f"{PACK}.nodes.run.summary_text").summary
    read = override.runs[-1].read()
    text = summary(read)
    totals = read["totals"]
    counts = dict(radial_calls=totals["radial_calls"], precisions=read["precisions"])
    if fault := why_not_this_way(way, {**counts, "dense_precisions": read["dense_precisions"]}):
        raise RuntimeError(f"no figures for {way}: {fault}. {text}")
    shared = totals.get("gpus") or {}
    split, why = shared.get("split_passes", 0), shared.get("why_one")
    if gpus > 1 and (split != totals["model_calls"] or len(shared["gpus"]) != gpus):
        passes = f"{split} of {totals['model_calls']} passes were split"
        raise RuntimeError(f"no figures for {way} on {gpus} GPUs: {passes}; {why}")
    return text


def compared(one: list[torch.Tensor], several: list[torch.Tensor]) -> dict:
    """How outputs on several GPUs differ from those on one. Tensors: float32, video and sound."""
    pairs = list(zip(one, several, strict=True))
    rms = [((y - x).double().norm() / x.double().norm()).item() for x, y in pairs]
    most = [((y - x).abs().max() / x.abs().max()).item() for x, y in pairs]
    return {
        "relative_difference": float(f"{max(rms):.3g}"),
        "relative_difference_max": float(f"{max(most):.3g}"),
        "same_bits": all(torch.equal(x, y) for x, y in pairs),
    }


def entry(name: str, way: str, gpus: int, case: Case, one: dict, several: dict, differ: dict):
    """What is written of a way on several GPUs."""
    both = {"1": one, str(gpus): several}
    of = {key: {n: each[key] for n, each in both.items()} for key in one}
    return {
        "name": f"{name}, {way}, {gpus} GPUs",
        "video": name,
        "way": way,
        "gpus": gpus,
        "tokens": case.model.tokens(case.latent),
        "pass_s": {n: round(s, 4) for n, s in of["pass_s"].items()},
        "speedup": round(one["pass_s"] / several["pass_s"], 3),
        **differ,
        "regions": of["regions"],
        "peak_gib": of["peak_gib"],
        **({"allocated_gib": of["allocated_gib"]} if "allocated_gib" in of else {}),
        "host_gib": several["host_gib"],
        "runs_s": of["runs_s"],
        "ran": of["ran"],
    }


def measure_case(name: str, case: Case, given, device: torch.device, failed: list) -> list[dict]:
    """The entries of a case. failed: gets the names of what failed."""
    say, found = Progress(name), []
    model, _ = load(case.model, device, None)
    say("loaded")
    for way in given.ways:
        try:
            one, expected = measure(model, way, case, 1, device)
            say(f"{way}: {one['pass_s']:.2f} s on one GPU, {one['regions']}")
            for gpus in given.gpus:
                several, out = measure(model, way, case, gpus, device)
                differ = compared(expected, out)
                found.append(entry(name, way, gpus, case, one, several, differ))
                speedup = f"{several['pass_s']:.2f} s, {found[-1]['speedup']:.2f}x"
                say(f"{way}: {speedup} on {gpus} GPUs, {several['regions']}, {differ}")
        except Exception:  # the other ways' figures are as good without it
            traceback.print_exc()
            failed.append(f"{name}: {way}")
    return found


def main(arguments: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    beside = Path(sys.prefix).parent / "ComfyUI"
    parser.add_argument("--comfyui", type=Path, default=beside, help="ComfyUI's folder")
    parser.add_argument("--gpus", nargs="*", type=int, default=[2], help="how many, besides 1")
    parser.add_argument("--case", nargs="*", help=f"default: {', '.join(MEASURED)}")
    ways = ["dense_fastest", "radial"]
    parser.add_argument("--ways", nargs="*", choices=WITH_RECORD, default=ways)
    parser.add_argument("--tiny", action="store_true", help="tiny models, to see that it runs")
    parser.add_argument("--results")
    given = parser.parse_args(arguments)
    every, usual = (SMALL, ("wan", "hunyuan")) if given.tiny else (CASES, MEASURED)
    names = given.case or usual
    if unknown := [name for name in names if name not in every]:
        parser.error(f"no case {unknown[0]}: there are {', '.join(every)}")
    if given.tiny:
        end_to_end_timing.SECONDS = 0
        os.environ.setdefault(CPU_CARDS, str(max(given.gpus)))
    results = given.results or f"multi_gpu-{record.gpu_name()}{'-tiny' * given.tiny}"
    device, version = start_comfyui(given.comfyui.resolve())
    cases, failed = [], []
    for name in names:
        try:
            cases += measure_case(name, every[name], given, device, failed)
        except Exception:
            traceback.print_exc()
            failed.append(name)
            continue
        finally:
            unload()
        record.save(results, cases, comfyui=version, **links())
    if failed:
        raise SystemExit(f"Failed: {', '.join(failed)}")


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="  %(message)s")
    main()
