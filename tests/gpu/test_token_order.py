"""The check of the tokens' order at real size: it finds one, and no step waits for it."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

ROOT, PACK = Path(__file__).parents[2], "radial_attention_on_a_gpu"


@pytest.fixture(scope="module")
def token_order():
    places = [str(ROOT)]
    file = ROOT / "__init__.py"
    spec = importlib.util.spec_from_file_location(PACK, file, submodule_search_locations=places)
    sys.modules[PACK] = importlib.util.module_from_spec(spec)
    return importlib.import_module(f"{PACK}.nodes.hook.token_order")


def test_only_the_first_pass_waits_for_the_gpu(token_order):
    grid = 21, 45, 80  # Wan at 1280x720, 81 frames
    places = torch.cartesian_prod(*(torch.arange(n, device="cuda") for n in grid))
    speeds = 100.0 ** -torch.linspace(0, 1, 22, device="cuda")
    angles = (places[:, :, None] * speeds).flatten(1)
    turns = torch.stack([angles.cos(), -angles.sin(), angles.sin(), angles.cos()], -1)
    table = turns.unflatten(-1, (2, 2))[None, :, None]
    shuffled = table[:, torch.randperm(len(places), device="cuda")]
    tokens = token_order.TokenLayout(grid)
    order = token_order.TokenOrder()
    order.begin(0)
    assert not order.is_wrong(tokens, [table])
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            assert not order.is_wrong(tokens, [shuffled])  # not read yet
    finally:
        torch.cuda.set_sync_debug_mode("default")
    order.begin(1)
    assert order.is_wrong(tokens, [table])
