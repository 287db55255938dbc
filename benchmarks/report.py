"""What does it cost to record what ran and how long it took? The aim is under 1 % of a step.

Forward passes of Wan 2.1 1.3B at 81 frames, 480p, the shortest real case, alternately with the
record of nodes/run/record.py and with one that does nothing; and the host time of the record.

Needs an NVIDIA GPU and the Python of your ComfyUI, and takes less than a minute:

    python benchmarks/report.py --comfyui FOLDER [--picture FILE]

Writes report-GPU.json, and the node's picture of 20 steps. Without a GPU it runs a tiny model, to
try the script, and writes no figures.
"""

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

import record
import torch
from end_to_end_cases import CASES
from end_to_end_models import PACK, load, override_of, run, start_comfyui
from end_to_end_timing import now
from end_to_end_ways import patched

CASE = "wan2.1-1.3b-81f-480p"
WARM, PASSES = 2, 30  # with the record and without, each
CALLS = 2000


def tiny(case):
    settings = case.model.settings | {"dim": 256, "ffn_dim": 256, "num_heads": 2, "num_layers": 4}
    model = replace(case.model, settings=settings, blocks={"blocks": 4})
    return replace(case, model=model, latent=(9, 12, 20))


def no_record():
    """A record that records nothing."""

    class Nothing(sys.modules[f"{PACK}.nodes.run.record"].Record):
        def forward(self, step, x):
            return 0

        def start(self, device):
            return None

        def end_forward(self, entry):
            pass

        end_call = end_forward

    return Nothing()


def passes(call, override, device):
    """Seconds of passes with the record and without, and the contents of the record."""
    kept, nothing = override.reporter.record, no_record()
    seconds, out = {"with": [], "without": []}, None
    for i in range(WARM + PASSES):
        if i == WARM:
            kept = type(kept)()
        for name, each in (("with", kept), ("without", nothing)):
            override.reporter.record = each
            start = now(device)
            out = call()
            if i >= WARM:
                seconds[name].append(now(device) - start)
    override.reporter.record = kept
    return (seconds, kept.read()), out


def host_us(device: torch.device) -> tuple[float, float]:
    """Host microseconds for an attention call, and for a pass of the model without its calls."""
    module = sys.modules[f"{PACK}.nodes.run.record"]
    kept, x = module.Record(), torch.zeros(1, device=device)

    def each(function) -> float:
        best = float("inf")
        for _ in range(5):
            now(device)
            start = time.perf_counter()
            for _ in range(CALLS):
                function()
            best = min(best, time.perf_counter() - start)
            now(device)
            kept.forward(0, x)  # reads the times
        return 1e6 * best / CALLS

    def attention():
        entry = module.CallEntry(step=0, block=3, backend="triton", shape=(2, 32_760), density=0.3)
        entry.mark = kept.start(device)
        kept.end_call(entry)

    def forward():
        entry = module.CallEntry(mark=kept.start(device), step=kept.forward(0, x))
        kept.end_forward(entry)

    return each(attention), each(forward)


def picture(model, case, path: Path):
    """Draw Radial Attention Report's picture of 20 steps with the node's default settings."""
    import comfy.sample

    settings = dict(dense_steps=-1, dense_blocks=-1, dense_last_steps=1, sink_frames=-1, decay=0)
    model = patched(model, case, **settings)
    noise = torch.randn((1, case.model.channels, *case.latent))
    prompt = [[torch.randn((1, *case.model.text)), {}]]
    with torch.inference_mode():
        comfy.sample.sample(
            *(model, noise, 20, 1.0, "euler", "simple", prompt, prompt, torch.zeros_like(noise)),
            disable_pbar=True,
        )
    run = override_of(model).runs[-1].read()
    drawn = sys.modules[f"{PACK}.nodes.drawing.report"].draw([("", run)])
    drawn.quantize(64).save(path, optimize=True)
    print(sys.modules[f"{PACK}.nodes.run.summary_text"].report(run))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    beside = Path(sys.prefix).parent / "ComfyUI"
    parser.add_argument("--comfyui", type=Path, default=beside, help="ComfyUI's folder")
    parser.add_argument("--picture", type=Path, help="a PNG file to write")
    given = parser.parse_args()
    device, version = start_comfyui(given.comfyui.resolve())
    gpu = device.type == "cuda"
    case = CASES[CASE] if gpu else tiny(CASES[CASE])
    model, _ = load(case.model, device, None)
    model = patched(model, case)
    override = override_of(model)
    seconds, read = run(
        *(model, case.model, case.latent), lambda call: passes(call, override, device)
    )
    with_record, without = median(seconds["with"]), median(seconds["without"])
    a_call, a_pass = host_us(device)
    blocks = sum(case.model.blocks.values())
    figures = {
        "name": CASE,
        "passes": PASSES,
        "s_with": round(with_record, 5),
        "s_without": round(without, 5),
        "cost": float(f"{with_record / without - 1:.2g}"),
        "recorded_share_of_the_time": round(read["totals"]["seconds"] / sum(seconds["with"]), 4),
        "ms_a_radial_call_as_recorded": round(1e3 * read["totals"]["seconds_of_a_radial_call"], 3),
        "host_us_a_call": round(a_call, 2),
        "host_us_a_pass": round(a_pass, 2),
        "host_share": float(f"{(blocks * a_call + a_pass) * 1e-6 / without:.2g}"),
    }
    for key, value in figures.items():
        print(f"  {key:32}{value}")
    if gpu:
        record.save(f"report-{record.gpu_name()}", [figures], comfyui=version)
    if given.picture:
        picture(model, case, given.picture)


if __name__ == "__main__":
    main()
