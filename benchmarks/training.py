"""How long does a LoRA's training step take, dense and radial? Real sizes, random weights.

ComfyUI's own training step (its node "Train LoRA": bfloat16 autocast, rank 128 on q, k, v and o of
the self-attention, every transformer block a checkpoint, AdamW) on one video, at 1x, 2x and 4x the
trained length. Dense attention is the fastest exact kernel, as measured here; radial is the node
with the paper's recipe: decay 1, one sink frame, the first two blocks dense. Attention by itself,
forward and backward, is measured first.

Needs an NVIDIA GPU with 80 GB and the Python of your ComfyUI:

    python benchmarks/training.py --comfyui FOLDER [--case NAME ...] [--tiny]

Writes training-GPU.json after each case. Cases that are not run again stay in it if nothing else
changed. --tiny runs small cases, also on a CPU, and writes nothing.
"""

import argparse
import logging
import traceback
from pathlib import Path

import record
import torch
from end_to_end import Progress, kept_cases
from end_to_end_models import load, override_of, radial, radial_node, start_comfyui, unload
from training_cases import BLOCK_SIZE, CASES, DECAY, DENSE_BLOCKS, RANK, SINK_FRAMES, TINY, Case
from training_whole import estimated_from_shorter, expected, fits, memory, rounded, summary, whole

WARM_FRAMES = 9
LONG = 3.0  # a step of more seconds than this is not run twice
MEASURED = (
    "Blocks that were not run are put together from those that were: seconds = outside the blocks "
    "+ the mean of each kind of block x how many there are, dense and radial. Peak memory: as "
    "measured, with the other blocks' weights, adapters and saved hidden states added."
)
ESTIMATED = (
    "Too large for this GPU, dense and radial alike. Put together: attention as measured alone at "
    "this length (its forward twice, because of the checkpoints, and its backward), all else as at "
    "half the length, times the tokens. `put_together` of the shorter cases says how near that "
    "comes."
)


def by_recipe(model):
    """A MODEL with the patch and the paper's recipe, every block radial."""
    return radial(model, sink_frames=SINK_FRAMES, decay=DECAY, block_size=BLOCK_SIZE)


def dense(model, kernel):
    """A MODEL whose self-attention runs an exact kernel: (q, k, v) -> out, all (b, s, h, d)."""

    def override(func, q, k, v, heads, *args, **kwargs):
        if q.shape != k.shape or kwargs.get("mask") is not None or args:
            return func(q, k, v, heads, *args, **kwargs)
        if kwargs.get("skip_reshape"):
            q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        else:
            q, k, v = (x.unflatten(2, (heads, -1)) for x in (q, k, v))
        # Under autocast the norms return q and k in float32.
        out = kernel(q.to(v.dtype), k.to(v.dtype), v)
        return out.transpose(1, 2) if kwargs.get("skip_output_reshape") else out.flatten(2)

    model = model.clone()
    model.model_options["transformer_options"]["optimized_attention_override"] = override
    return model


def measure(name: str, case: Case, results: dict[str, dict], device: torch.device) -> dict:
    """A case's figures. results: the figures of the cases before it."""
    from training_attention import attention_alone

    say = Progress(name)
    radial_node()  # loads the pack
    alone = attention_alone(case, case.width // 128, device)
    say(
        f"attention {alone['speedup']}x: {alone['dense_kernel']} {alone['dense']}, "
        f"radial by {alone['radial_backend']} {alone['radial']}, {alone['density']:.1%} kept"
    )
    result = {
        "name": name,
        "latent": list(case.latent),
        "tokens": case.tokens,
        "dtype": "bfloat16",
        "rank": RANK,
        "dense_blocks": DENSE_BLOCKS,
        "decay": DECAY,
        "sink_frames": SINK_FRAMES,
        "attention": alone,
        "published_speedup": case.published_speedup,
    }
    shorter, ways = results.get(case.shorter), None
    if shorter is None or fits(case, shorter, device):
        ways = steps_if_they_fit(case, alone, device, say)
    note = None if case.measured is None else MEASURED
    if shorter is not None:
        estimate = estimated_from_shorter(case, alone, shorter)
        result["put_together"] = summary(case, estimate)
        if ways is None:
            ways, note = estimate, ESTIMATED
    if ways is None:
        raise RuntimeError("It does not fit this GPU, and no shorter case was measured")
    result |= summary(case, ways) | {"measured_blocks": case.measured, "note": note, "ways": ways}
    if "comfyui" in ways:
        result["comfyui_s"] = round(whole(case, ways["comfyui"], ways["comfyui"], 0), 3)
    return result


def steps_if_they_fit(case: Case, alone: dict, device: torch.device, say: Progress):
    """`steps`, or None if memory ran out."""
    try:
        return steps(case, alone, device, say)
    except torch.cuda.OutOfMemoryError as error:
        say(f"out of memory: {str(error)[:200]}")
    unload()  # not in the except block, where the traceback still holds the memory
    return None


def steps(case: Case, alone: dict, device: torch.device, say: Progress) -> dict[str, dict]:
    """The figures of a training step, measured for each way: dense, radial and so on."""
    from training_attention import dense_kernels
    from training_step import Watch, add_lora, checkpointed, optimizer_of, train

    model, left_out = load(case.model, device, case.measured)
    model, parameters = add_lora(model, RANK)
    optimizer, watch = optimizer_of(parameters), Watch(device)
    radial_model = by_recipe(model)
    ways = {"radial": radial_model}
    ways["dense"] = dense(model, dense_kernels(device)[alone["dense_kernel"]])
    if case.default_attention:
        ways["comfyui"] = model
    say("loaded")
    few = (min(WARM_FRAMES, case.latent[0]), *case.latent[1:])
    found = {}
    with checkpointed(model.model.diffusion_model, case.blocks, watch):
        for patcher in ways.values():
            train(patcher, optimizer, case.model, few, watch)
        say("warm")
        for way, patcher in ways.items():
            count = 1 if expected(case, alone[way if way == "radial" else "dense"]) > LONG else 2
            run = train(patcher, optimizer, case.model, case.latent, watch, count)
            best = min(run["steps"], key=lambda step: step["s"])
            found[way] = rounded(best, parameters) | memory(case, run, parameters, left_out)
            found[way]["loss"] = run["steps"][0]["loss"]  # steps differ in their noise
            say(f"{way}: {best['s']:.2f} s a step of {case.blocks}, loss {found[way]['loss']:.4f}")
    ran = override_of(radial_model).runs[-1].read()
    if ran["failures"] or ran["totals"]["dense_calls"] or not ran["totals"]["radial_calls"]:
        raise RuntimeError(f"not all calls ran radial: {ran['failures']} {ran['totals']}")
    found["radial"] |= {"density": ran["density"], "backend": ran["backend"]}
    return found


def table(cases: list[dict]):
    print(f"{'case':24}{'tokens':>9}{'kept':>7}{'attention':>11}", end="")
    print(f"{'dense s':>10}{'radial s':>10}{'step':>7}{'GiB dense':>11}{'radial':>8}")
    for each in cases:
        alone, gib = each["attention"], (each["peak_gib_dense"], each["peak_gib_radial"])
        print(f"{each['name']:24}{each['tokens']:9,}{alone['density']:7.1%}", end="")
        print(f"{alone['speedup']:10.2f}x{each['dense_s']:10.2f}{each['radial_s']:10.2f}", end="")
        print(f"{each['speedup_step']:6.2f}x" + "".join(f"{str(g):>10}" for g in gib), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--comfyui", type=Path, required=True, help="ComfyUI's folder")
    parser.add_argument("--case", nargs="*", help="names of cases; all by default")
    parser.add_argument("--tiny", action="store_true", help="small cases; nothing is written")
    parser.add_argument("--results", default=f"training-{record.gpu_name()}")
    given = parser.parse_args()
    every = TINY if given.tiny else CASES
    names = given.case or list(every)
    if unknown := [name for name in names if name not in every]:
        raise SystemExit(f"No such case: {', '.join(unknown)}. There are: {', '.join(every)}")
    device, version = start_comfyui(given.comfyui.resolve())
    kept = [] if given.tiny else kept_cases(given.results, version)
    results, failed = {each["name"]: each for each in kept}, []
    for name in names:
        try:
            results[name] = measure(name, every[name], results, device)
        except Exception:
            traceback.print_exc()
            failed.append(name)
            continue
        finally:
            unload()
        cases = [results[each] for each in every if each in results]
        if not given.tiny:
            record.save(given.results, cases, comfyui=version)
    table([results[each] for each in every if each in results])
    if failed:
        raise SystemExit(f"Failed: {', '.join(failed)}")


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="  %(message)s")
    main()
