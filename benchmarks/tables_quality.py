"""Tables of what the quality lab measured."""

from tables_format import by_name, cases, markdown, results

MASKS = {
    "radial": "radial decay 0.2 sink 1",
    "spatial": "spatial sink 0 keep 59",
    "sliding window": "sliding sink 0 keep 59",
    "tile window": "tile keep 59",
    "temporal": "temporal sink 0 keep 59",
    "most attended, one map": "mean_all keep 59",
    "most attended, a map per head": "mean_heads keep 59",
    "most attended, chosen anew at each call": "oracle keep 59",
}
RADIAL_128 = "radial decay 0.2 sink 1 block 128; dense steps {}+0, blocks 0"


def quality_steps() -> str:
    """The share of dense steps against how near a video stays to the dense one."""
    found, rows = by_name("quality-compare-h100"), []
    steps = results("quality-compare-h100")["sizes"]["lab"]["steps"]
    for dense in (0, 3, 7, 15):
        case = found[RADIAL_128.format(dense)]
        figures = [f"{case['kept_flops']:.2f}", f"{case['psnr']:.1f}", f"{case['ssim']:.3f}"]
        rows.append([f"{dense} of {steps}", *figures])
    return markdown(["dense first steps", "share of the work", "PSNR, dB", "SSIM"], rows)


def quality_masks() -> str:
    """Masks that keep the same share of the block map."""
    found, rows = by_name("quality-compare-h100"), []
    dense_loss = results("quality-compare-h100")["sizes"]["lab"]["dense_val_loss"]
    for title, name in MASKS.items():
        case = found[f"{name} block 64; dense steps 0+0, blocks 0"]
        loss = f"+{case['val_loss'] - dense_loss:.4f}"
        psnr = f"{case['psnr']:.1f} ± {case['psnr_std']:.1f}"
        rows.append([title, f"{case['density']:.0%}", loss, psnr])
    return markdown(["mask", "kept", "validation loss", "PSNR, dB"], rows)


def quality_longer() -> str:
    rows = [
        [
            case["name"].replace(", ", " the trained length, ", 1),
            *(f"{case['kept']:.0%}", f"{case['val_loss']:.3f}", f"{case['frechet']:.0f}"),
        ]
        for case in sorted(cases("quality-extend-h100"), key=lambda case: case["times"])
    ]
    return markdown(["video", "kept", "validation loss", "Fréchet distance"], rows)


TABLES = (quality_steps, quality_masks, quality_longer)
