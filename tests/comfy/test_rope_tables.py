"""No model's own rotations count as another order: at real sizes, scaled, shifted, or tiny."""

import math
from types import SimpleNamespace

import comfy.ldm.lightricks.model as lightricks
import comfy.ldm.lightricks.symmetric_patchifier as lightricks_patches
import pytest
import torch
import zoo
from conftest import newest_only, pack_module

pytestmark = newest_only("some have no matrices, or not these models")

token_order = pack_module("nodes.hook.token_order")
TokenLayout = pack_module("nodes.families.base").TokenLayout
BF16 = torch.bfloat16


def network(name):
    return zoo.NAMED[name].network()


def wan(grid, dtype=BF16, **options):
    """options: as of the nodes that scale and shift the rotations (ScaleROPE)."""
    frames, height, width = grid
    latent = frames, 2 * height, 2 * width
    return network("Wan 2.1 14B").rope_encode(
        *latent, dtype=dtype, transformer_options={"rope_options": options}
    )


def hunyuan(grid, model="HunyuanVideo", dtype=BF16, videos=1, reference=0):
    net = network(model)
    sizes = [n * p for n, p in zip(grid, net.patch_size, strict=True)]
    ids = net.img_ids(torch.empty(videos, 1, *sizes, dtype=dtype, device="cpu"))
    text = torch.zeros(videos, 256 + reference, 3, dtype=dtype)
    return net.pe_embedder(torch.cat([text, ids], 1))


def kandinsky(grid, model="Kandinsky 5 Pro", dtype=BF16):
    frames, height, width = grid
    return network(model).rope_encode_3d(frames, 2 * height, 2 * width, dtype=dtype)


def ltx(grid, model="LTX-2", dtype=BF16, videos=1, guides=0):
    """guides: frames behind the video, in time before it."""
    net, (frames, height, width) = network(model), grid
    latent = torch.empty(videos, 1, frames + guides, height, width)
    coords = lightricks_patches.latent_to_pixel_coords(
        latent_coords=net.patchifier.patchify(latent)[1],
        scale_factors=net.vae_scale_factors,
        causal_fix=net.causal_temporal_positioning,
    )
    coords[:, 0, math.prod(grid) :] = -40
    return lightricks.LTXBaseModel._prepare_positional_embeddings(net, coords, 24.0, dtype)


def h3(grid, dtype=BF16, keyframes=(), refs=None):
    module = pytest.importorskip("comfy.ldm.minimax.model")
    frames, height, width = grid
    given = [{"resolved_frame_index": index} for index in keyframes]
    layout = module.PackedLayout(
        *(77, frames, 2 * height, 2 * width, 65), given, refs, frame_count=100
    )
    speeds = 10000.0 ** -torch.linspace(0, 1, 16)
    net = SimpleNamespace(rope=SimpleNamespace(inv_freq=speeds))
    angles = module.MiniMaxH3Model.rope_freqs(net, layout.position_ids, torch.device("cpu"))
    return module.rope_rotation_table(angles, dtype)


def cosmos(grid, dtype=BF16):
    from comfy.ldm.cosmos.position_embedding import VideoRopePosition3DEmb

    embed = VideoRopePosition3DEmb(
        head_dim=128, len_h=120, len_w=120, len_t=128, h_extrapolation_ratio=4.0
    )
    table = embed.generate_embeddings((1, *grid, 1), fps=torch.tensor([16.0]))
    return table.unsqueeze(1).unsqueeze(0).to(dtype)


VIDEO_REFERENCE = [
    {"kind": "image", "latent_h": 20, "latent_w": 30},
    {"kind": "video_audio", "latent_h": 24, "latent_w": 42, "latent_t": 12, "ref_audio_t": 50},
]
SHIFTED = {"shift_t": 13.7, "shift_x": -120.0, "scale_y": 0.37, "scale_x": 2.5, "scale_t": 0.8}
TABLES = {
    "wan 720p": (wan, (21, 45, 80), {}),
    "wan 720p, fp32": (wan, (21, 45, 80), {"dtype": torch.float32}),
    "wan 720p, fp16": (wan, (21, 45, 80), {"dtype": torch.float16}),
    "wan, wide": (wan, (5, 8, 320), {}),
    "wan, long": (wan, (401, 8, 12), {}),
    "wan, scaled": (wan, (21, 30, 52), SHIFTED),
    "wan, a later window": (wan, (21, 30, 52), {"shift_t": 300.0}),
    "wan, one row": (wan, (21, 1, 52), {}),
    "wan, one column": (wan, (21, 30, 1), {}),
    "wan, one frame": (wan, (1, 45, 80), {}),
    "wan, two frames of 2x2": (wan, (2, 2, 2), {}),
    "wan, one token a frame": (wan, (4, 1, 1), {}),
    "hunyuan 720p": (hunyuan, (33, 45, 80), {}),
    "hunyuan, two videos": (hunyuan, (9, 30, 52), {"videos": 2}),
    "hunyuan, reference": (hunyuan, (33, 30, 52), {"reference": 30 * 52}),
    "hunyuan 1.5": (hunyuan, (31, 45, 80), {"model": "HunyuanVideo 1.5"}),
    "hunyuan, 2 tokens, two videos": (hunyuan, (2, 1, 1), {"videos": 2}),
    "kandinsky lite": (kandinsky, (31, 32, 48), {"model": "Kandinsky 5 Lite"}),
    "kandinsky pro": (kandinsky, (61, 40, 64), {}),
    "ltx-2 1080p": (ltx, (3, 34, 60), {}),
    "ltx-2 with guides": (ltx, (5, 22, 40), {"guides": 2}),
    "ltx-2, long": (ltx, (64, 6, 10), {}),
    "ltx-video, two videos": (ltx, (17, 16, 24), {"model": "LTX-Video 2B", "videos": 2}),
    "ltx-video 13b": (ltx, (5, 22, 38), {"model": "LTX-Video 13B"}),
    "h3": (h3, (107, 24, 42), {}),
    "h3, keyframes": (h3, (37, 24, 42), {"keyframes": (0, 99)}),
    "h3, references": (h3, (37, 24, 42), {"refs": VIDEO_REFERENCE}),
    "cosmos": (cosmos, (24, 44, 80), {}),
}


@pytest.mark.parametrize("table, grid, given", TABLES.values(), ids=list(TABLES))
def test_a_table_in_order(table, grid, given):
    x = table(grid, **given)
    after = given.get("guides", 0) * grid[1] * grid[2]
    before = None if table in (hunyuan, h3) else 0
    tokens = TokenLayout(grid, before, after)
    share = token_order.other_channels(tokens, [torch.ones(1, 2, 3), x])
    assert share is not None and share.item() == 0


@pytest.mark.parametrize("dtype", [BF16, torch.float16, torch.float8_e4m3fn], ids=str)
def test_a_coarse_table(dtype):
    grid = 21, 45, 80
    assert token_order.other_channels(TokenLayout(grid), [wan(grid).to(dtype)]).item() == 0
