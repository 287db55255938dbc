"""Tables of how fast radial attention is: whole videos, training steps, single calls."""

from tables_format import VIDEOS, by_name, cases, markdown, number, times

ON_THE_FIRST_SCREEN = {
    name: VIDEOS[name]
    for name in (
        "wan2.1-14b-69f-768p",
        "hunyuan-117f-768p",
        "hunyuan-509f-720p",
    )
} | {"minimax-h3-15s-768p": "MiniMax H3, 15 s with sound, 768p, 20 steps on an H200"}
PUBLISHED = ("Radial, paper", "Radial, its authors")
BACKENDS = {
    "ours, Hopper": "triton",
    "flash-attn-4": "flash_attention",
    "FlashInfer": "flashinfer",
    "cuDNN": "cudnn",
    "Flex": "flex",
    "ours, portable": "triton, portable kernel",
    "PyTorch": "sdpa",
}
DENSE_DEFAULT = "dense-sdpa-flash"
DENSE_FASTEST = ("dense-flash_attention", "dense-triton", "dense-sdpa-cudnn")


def speed() -> str:
    """Minutes for a whole video with the paper's settings, and a dense last step."""
    gpu, found = _with_8_bits()
    rows = []
    for name, case in (by_name("end_to_end-h200") | by_name("end_to_end-h100")).items():
        if name in ON_THE_FIRST_SCREEN and "schedule_with_last_step_s" in case:
            dense, radial = case["schedule_dense_s"], case["schedule_with_last_step_s"]
            minutes = [f"{seconds / 60:.0f} min" for seconds in (dense, radial)]
            rows.append([ON_THE_FIRST_SCREEN[name], *minutes, times(dense, radial)])
            if found:
                rows[-1].append(_in_8_bits(found.get(name)))
    rows.sort(key=lambda row: list(ON_THE_FIRST_SCREEN.values()).index(row[0]))
    head = ["50 steps on one H100", "ComfyUI's default", "the paper's settings", "speed-up"]
    if found:
        head.append("8 bit" if gpu == "h100" else f"8 bit, on an {gpu.upper()}")
    return markdown(head, rows)


def _with_8_bits() -> tuple[str, dict[str, dict]]:
    """A GPU, and its cases that have 8-bit and dense figures; no cases if there are none."""
    for gpu in ("h100", "h200"):
        cases = by_name(f"end_to_end-{gpu}").items()
        found = {name: case for name, case in cases if "speedup_schedule_8bit" in case}
        if found:
            return gpu, found
    return "", {}


def _in_8_bits(case: dict | None) -> str:
    """Minutes, and how much faster than ComfyUI's default on the same machine."""
    if case is None:
        return ""
    dense, radial = case["schedule_dense_s"], case["schedule_8bit_with_last_step_s"]
    return f"{radial / 60:.0f} min, {times(dense, radial)}"


def videos() -> str:
    """Seconds of a pass and of all steps, and the memory of a pass."""
    rows = []
    for case in cases("end_to_end-h100"):
        whole = [case[f"schedule_{way}_s"] for way in ("dense", "with_last_step")]
        published = "".join(f"{s} s" for way, s in case["published_s"].items() if way in PUBLISHED)
        if case["published_speedup"]:
            published = f"{case['published_speedup']:.1f}x"
        rows.append(
            [
                _name_with_marks(case),
                str(case["steps"]),
                f"{case['density']:.1%}",
                *(number(case[f"{way}_s"]) for way in ("dense", "dense_fastest", "radial")),
                *map(number, whole),
                times(*whole),
                published,
                " / ".join(number(case[f"peak_gib_{way}"]) for way in ("dense", "radial")),
            ]
        )
    head = ["video", "steps", "kept", "pass: dense, ComfyUI's default", "dense, fastest", "radial"]
    head += ["all steps: ComfyUI's default", "this node", "speed-up", "paper", "peak GiB"]
    return markdown(head, rows)


def videos_h200() -> str:
    """Passes and the paper's schedule, exact and in 8 bits, of one machine."""
    seconds = {
        "pass: dense, ComfyUI's default": "dense_s",
        "dense, fastest, exact": "dense_fastest_s",
        "radial, exact": "radial_s",
        "dense, 8 bit": "dense_8bit_s",
        "radial, 8 bit": "radial_8bit_s",
        "ComfyUI's sparse kernel": "core_sparse_s",
        "all steps: ComfyUI's default": "schedule_dense_s",
        "exact": "schedule_radial_s",
        "8 bit": "schedule_radial_8bit_s",
    }
    speedups = {
        "speed-up, exact": "speedup_schedule",
        "speed-up, 8 bit": "speedup_schedule_8bit",
    }
    peaks = {"peak GiB: exact": "peak_gib_radial", "peak GiB: 8 bit": "peak_gib_radial_8bit"}
    found = cases("end_to_end-h200")
    columns = [["video", *(_name_with_marks(case) for case in found)]]
    for keys, text in ((seconds, number), (speedups, "{:.1f}x".format), (peaks, number)):
        for title, key in keys.items():
            if any(key in case for case in found):  # not in files of earlier versions
                cells = [text(case[key]) if key in case else "" for case in found]
                columns.append([title, *cells])
    head, *rows = map(list, zip(*columns, strict=True))
    return markdown(head, rows)


def videos_adaptive() -> str:
    """Passes and the paper's schedule with adaptive lists, where they were measured."""
    seconds = {  # title -> key, with a place for _8bit
        "pass: radial lists": "radial{}_s",
        "pass: adaptive": "radial_adaptive{}_s",
        "pass: budget 0.67": "adaptive_067{}_s",
        "look": "look_s_radial_adaptive{}",
        "look: budget 0.67": "look_s_adaptive_067{}",
        "all steps: radial lists": "schedule_radial{}_s",
        "all steps: adaptive": "schedule_adaptive{}_s",
        "all steps: budget 0.67": "schedule_adaptive_067{}_s",
    }
    rows = []
    for case in cases("end_to_end-h200"):
        for precision, end in (("exact", ""), ("8 bit", "_8bit")):
            if f"adaptive_067{end}_s" in case:
                keys = [key.format(end) for key in seconds.values()]
                cells = [number(case[key]) if key in case else "" for key in keys]
                rows.append([_name_with_marks(case), precision, *cells])
    return markdown(["seconds", "precision", *seconds], rows)


def _name_with_marks(case: dict) -> str:
    name = VIDEOS[case["name"]] + " ¹" * bool(case.get("measured_blocks"))
    return name + " ²" * ("ways_of_an_earlier_run" in case)


def profile() -> str:
    """Where the time of a pass goes."""
    rows = []
    for case in cases("end_to_end-h100") + cases("end_to_end-h200"):
        for way in ("dense_fastest", "radial") if "profile" in case else ():
            spent = case["profile"][way]["seconds"]
            shares = [spent[kind] / sum(spent.values()) for kind in ("attention", "linear layers")]
            name = f"{VIDEOS[case['name']]}, {way.replace('_', ', ')}"
            rows.append([name, *(f"{share:.0%}" for share in (*shares, 1 - sum(shares)))])
    return markdown(["one pass", "attention", "linear layers", "all else"], rows)


def fused_passes() -> str:
    """The radial pass before the norms were fused, and now."""
    rows = []
    for gpu in ("h100", "h200"):
        now = by_name(f"end_to_end-{gpu}")
        for case in cases(f"end_to_end-unfused-{gpu}"):
            pair, keys = (case, now[case["name"]]), ("radial_s", "peak_gib_radial")
            rows.append([VIDEOS[case["name"]], *(number(x[key]) for key in keys for x in pair)])
    head = ["radial pass", "unfused, s", "fused, s", "unfused, peak GiB", "fused, peak GiB"]
    return markdown(head, rows)


def fused_operations() -> str:
    keys = ("comfyui_ms", "fused_ms")
    rows = [[case["name"], *(number(case[k]) for k in keys)] for case in cases("fused-h200")]
    return markdown(["operation, ms", "ComfyUI's", "fused"], rows)


def training() -> str:
    rows = []
    for case in cases("training-h100"):
        note = case["note"] or ""
        mark = " ²" if note.startswith("Too large") else " ¹" if note else ""
        dense, radial = (
            sum(case["attention"][way][f"{x}_ms"] for x in ("forward", "backward"))
            for way in ("dense", "radial")
        )
        published = case["published_speedup"]
        rows.append(
            [
                VIDEOS[case["name"]] + mark,
                f"{case['tokens']:,}",
                f"{case['attention']['density']:.1%}",
                *(number(dense), number(radial), times(dense, radial)),
                number(case["comfyui_s"]) if "comfyui_s" in case else "",
                *(number(case[f"{way}_s"]) for way in ("dense", "radial")),
                times(case["dense_s"], case["radial_s"]),
                f"{published:.1f}x" if published else "",
                number(case["peak_gib_radial"]),
            ]
        )
    head = ["clip", "tokens", "kept", "attention: dense, ms", "radial, ms", "speed-up"]
    head += ["step: ComfyUI's default, s", "dense, fastest, s", "radial, s", "speed-up"]
    return markdown([*head, "paper", "peak GiB"], rows)


def training_template() -> str:
    """What the template train_length_lora takes."""
    case, rows = by_name("training-h100")["wan2.1-1.3b-161f-480p"], []
    for title, way in (("dense, fastest kernel", "dense"), ("radial", "radial")):
        seconds, peak = case[f"{way}_s"], case[f"peak_gib_{way}"]
        rows.append([title, f"{seconds:.1f} s", f"{1200 * seconds / 3600:.1f} h", f"{peak} GiB"])
    return markdown(["on one H100", "one step", "1,200 steps", "peak memory"], rows)


def attention() -> str:
    rows = []
    for case in cases("attention-h100"):
        ms = {row["backend"]: row["ms"] for row in case["rows"]}
        name = f"{case['name']}: {case['tokens']:,} tokens, {case['heads']} heads"
        figures = [number(ms[name]) if name in ms else "" for name in BACKENDS.values()]
        dense = [ms[DENSE_DEFAULT], min(ms[kernel] for kernel in DENSE_FASTEST)]
        rows.append([name, f"{case['density']:.1%}", *figures, *map(number, dense)])
    head = ["one call, ms", "kept", *BACKENDS, "dense, ComfyUI's default", "dense, fastest"]
    return markdown(head, rows)


def crossover() -> str:
    """Speed-up of one call by the number of latent frames."""
    found = {(case["size"], case["latent_frames"]): case for case in cases("crossover-h100")}
    sizes = ("480p", "720p")
    rows = []
    for frames in sorted({frames for size, frames in found if size in sizes}):
        pair = [found[size, frames] for size in sizes]
        cells = [(f"{case['density']:.0%}", f"{case['speedup']:.2f}x") for case in pair]
        rows.append([str(frames), *(cell for pair in cells for cell in pair)])
    head = ["latent frames", "480p: kept", "480p: speed-up", "720p: kept", "720p: speed-up"]
    return markdown(head, rows)


TABLES = (
    speed,
    videos,
    videos_h200,
    videos_adaptive,
    profile,
    fused_passes,
    fused_operations,
    training,
    training_template,
    attention,
    crossover,
)
