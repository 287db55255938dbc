"""Draws nodes/web/docs/screen_*.png, the screenshots for the README and the help pages.

The models are stand-ins, so the figures in the pictures are of tiny random weights on this machine.
Run it in the Python of the tests (~/.cache/radial-attention/*/venv); it takes minutes on a CPU:

python tests/browser/draw_screens.py [templates graph train]
"""

import io
import sys
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "workflows"))

from frontend import chromium, comfyui_page  # noqa: E402
from headless.environment import ensure_environment  # noqa: E402
from headless.server import standin_server  # noqa: E402
from person import blank, look_at, run  # noqa: E402
from run import stand_in_models  # noqa: E402

FOLDER = ROOT / "nodes/web/docs"
MARGIN = 16  # pixels around the nodes

# The graph in the README: name -> (type, position, size, widgets), and its links (node, input) ->
# (node, output).
NODES = {
    "loader": (
        "UNETLoader",
        (0, 30),
        (400, 90),
        {"unet_name": "hunyuan_video_t2v_720p_bf16.safetensors"},
    ),
    "clip": (
        "DualCLIPLoader",
        (0, 170),
        (400, 130),
        {
            "clip_name1": "clip_l.safetensors",
            "clip_name2": "llava_llama3_fp8_scaled.safetensors",
            "type": "hunyuan_video",
        },
    ),
    "prompt": ("CLIPTextEncode", (0, 350), (400, 130), {"text": "a red fox in fresh snow"}),
    "size": (
        "EmptyHunyuanLatentVideo",
        (0, 530),
        (400, 140),
        {"width": 320, "height": 192, "length": 129},
    ),
    "patch": ("RadialAttentionPatch", (460, 30), (360, 400), {}),
    "sampler": (
        "KSampler",
        (460, 530),
        (360, 290),
        {"control_after_generate": "fixed", "steps": 20, "cfg": 1, "scheduler": "simple"},
    ),
    "preview": (
        "RadialMaskPreview",
        (1370, 30),
        (520, 960),
        {"model_type": "HunyuanVideo", "width": 1280, "height": 720, "length": 129},
    ),
    "report": ("RadialAttentionReport", (880, 30), (430, 740), {}),
}
LINKS = {
    ("patch", "model"): ("loader", "MODEL"),
    ("prompt", "clip"): ("clip", "CLIP"),
    ("sampler", "model"): ("patch", "MODEL"),
    ("sampler", "positive"): ("prompt", "CONDITIONING"),
    ("sampler", "negative"): ("prompt", "CONDITIONING"),
    ("sampler", "latent_image"): ("size", "LATENT"),
    ("report", "samples"): ("sampler", "LATENT"),
    ("report", "model"): ("patch", "MODEL"),
}


# The graph on the help pages of the training nodes, which is not run.
TRAIN_NODES = {
    "loader": (
        "UNETLoader",
        (0, 30),
        (340, 90),
        {"unet_name": "wan2.1_t2v_1.3B_fp16.safetensors"},
    ),
    "patch": (
        "RadialAttentionPatch",
        (0, 190),
        (340, 350),
        {"preset": "custom", "dense_blocks": 2, "sink_frames": 1, "decay": 1},
    ),
    "layers": ("RadialTrainLayers", (400, 30), (340, 80), {}),
    "train": (
        "TrainLoraNode",
        (800, 30),
        (360, 560),
        {"steps": 1200, "learning_rate": 0.001, "rank": 128, "checkpoint_depth": 2},
    ),
    "trim": ("RadialTrimLora", (1220, 30), (340, 70), {}),
    "save": ("SaveLoRA", (1220, 190), (340, 110), {"prefix": "loras/long_video"}),
    "loss": ("LossGraphNode", (1220, 390), (340, 80), {}),
}
TRAIN_LINKS = {
    ("patch", "model"): ("loader", "MODEL"),
    ("layers", "model"): ("patch", "MODEL"),
    ("train", "model"): ("layers", "MODEL"),
    ("trim", "lora"): ("train", "lora"),
    ("save", "lora"): ("trim", "lora"),
    ("save", "steps"): ("train", "steps"),
    ("loss", "loss"): ("train", "loss_map"),
}


def main():
    wanted = sys.argv[1:] or ["templates", "graph", "train"]
    environment = ensure_environment()
    with (
        standin_server(environment, stand_in_models(environment)) as server,
        chromium() as browser,
        comfyui_page(browser, server.url) as page,
    ):
        if "templates" in wanted:
            draw_templates(page)
        if "graph" in wanted:
            draw_graph(page, "graph", NODES, LINKS, runs=True)
        if "train" in wanted:
            draw_graph(page, "train", TRAIN_NODES, TRAIN_LINKS, runs=False)


def draw_templates(page):
    page.get_by_role("button", name="Templates").first.click()
    dialog = page.get_by_role("dialog")
    loaded = "e => [...e.querySelectorAll('img')].every(image => image.complete)"
    page.wait_for_function(loaded, arg=dialog.element_handle())
    save("templates", dialog.screenshot())
    page.keyboard.press("Escape")


def draw_graph(page, name: str, nodes: dict, links: dict, runs: bool):
    blank(page)
    ids = page.evaluate(BUILD, [nodes, [[*a, *b] for a, b in links.items()]])
    page.set_viewport_size({"width": 1920, "height": 1280})  # room below the bars
    if runs:
        assert run(page, seconds=600).error is None
    look_at(page, *ids)
    page.mouse.move(2, 2)
    save(name, page.screenshot(clip=page.evaluate(FRAME, MARGIN)))


BUILD = """([nodes, links]) => {
    const made = {}
    for (const [name, [kind, pos, size, values]] of Object.entries(nodes)) {
        const node = made[name] = LiteGraph.createNode(kind)
        app.graph.add(node)
        node.pos = pos
        node.setSize(size)
        for (const [input, value] of Object.entries(values)) {
            const widget = node.widgets.find(w => w.name === input)
            widget.value = value
            widget.callback?.(value)
        }
    }
    for (const [to, input, from, output] of links)
        made[from].connect(
            made[from].outputs.findIndex(o => o.name === output), made[to],
            made[to].inputs.findIndex(i => i.name === input)
        )
    return Object.values(made).map(node => String(node.id))
}"""

FRAME = """margin => {
    const boxes = app.graph.nodes.map(n => n.boundingRect)
    const low = i => Math.min(...boxes.map(b => b[i]))
    const high = i => Math.max(...boxes.map(b => b[i] + b[i + 2]))
    const [x, y] = app.canvasPosToClientPos([low(0), low(1)])
    const [right, bottom] = app.canvasPosToClientPos([high(0), high(1)])
    return {
        x: x - margin, y: y - 2 * margin,
        width: right - x + 2 * margin, height: bottom - y + 3 * margin,
    }
}"""


def save(name: str, png: bytes):
    path = FOLDER / f"screen_{name}.png"
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    # 256 colours, including rare ones such as those of the links.
    colours = Image.Quantize.MAXCOVERAGE
    few = picture.quantize(256, method=colours, kmeans=3, dither=Image.Dither.NONE)
    few.save(path, optimize=True)
    print(f"{path.name}: {picture.width} x {picture.height}, {path.stat().st_size // 1024} KiB")


if __name__ == "__main__":
    main()
