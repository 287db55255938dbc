"""The patch with packs that reorder the video's tokens around the transformer blocks."""

import comfy.ldm.lightricks.model as lightricks
import pytest
import torch
import zoo
from conftest import (
    BLOCKS,
    EVERYTHING,
    SLOT,
    difference,
    pack_module,
    patch,
    sample,
    with_wrapper,
)
from probing import places, probe, run_of

FLAG = "sol_morton"
UNKNOWN = "a_flag_of_another_pack"
token_order = pack_module("nodes.hook.token_order")


@pytest.fixture
def reorder(wan):
    """A node like Sol-Attn's with `morton`: model, whether it is on -> model.

    Hooks on the blocks put tokens and their rope into another order before the first block, and
    back behind the last. They stay on the model, and act where transformer_options has a flag.
    Its override takes the video's self-attention; this one is exact, and counts the calls.
    """
    blocks, handles, state = wan.model.diffusion_model.blocks, [], {}

    def acts(options):
        return options.get(FLAG) or options.get(UNKNOWN)

    def before(block, args, kwargs):
        if not acts(kwargs["transformer_options"]):
            return None
        if block is blocks[0]:
            order = torch.randperm(args[0].shape[1], generator=torch.Generator().manual_seed(3))
            state.update(order=order, freqs=kwargs["freqs"][:, order])
            args = (args[0][:, order], *args[1:])
        return args, {**kwargs, "freqs": state["freqs"]}

    def after(block, args, kwargs, output):
        if acts(kwargs["transformer_options"]):
            return output[:, state["order"].argsort()]
        return None

    for block in blocks:
        handles.append(block.register_forward_pre_hook(before, with_kwargs=True))
    handles.append(blocks[-1].register_forward_hook(after, with_kwargs=True))

    def node(model, is_on=True):
        model = model.clone()
        options = model.model_options["transformer_options"]
        previous = options.get(SLOT)

        def override(func, q, k, v, heads, **kwargs):
            node.calls += q.shape == k.shape
            if previous is not None:
                return previous(func, q, k, v, heads, **kwargs)
            return func(q, k, v, heads, **kwargs)

        options |= {SLOT: override, FLAG: is_on}
        return model

    node.calls = 0
    yield node
    for handle in handles:
        handle.remove()


ORDERS = {
    "before ours": lambda reorder, model, **settings: patch(reorder(model), **settings),
    "after ours": lambda reorder, model, **settings: reorder(patch(model, **settings)),
}


@pytest.mark.parametrize("order", ORDERS)
def test_no_call_is_radial(wan, summaries, any_density, reorder, order):
    plain = sample(wan)
    assert difference(sample(reorder(wan)), plain) < 1e-5  # neutral to dense attention
    reorder.calls = 0
    out = sample(ORDERS[order](reorder, wan))
    assert difference(out, plain) < 1e-5
    (summary,) = summaries
    assert summary["radial_calls"] == 0
    assert reorder.calls == BLOCKS * summary["model_calls"]  # the other node's to take
    assert "Sol-Attn's morton option" in summary["text"]


@pytest.mark.parametrize("order", ORDERS)
def test_as_ever_where_the_option_is_off(wan, summaries, any_density, reorder, order):
    radial = sample(patch(wan))
    off = ORDERS[order](lambda model: reorder(model, is_on=False), wan)
    assert torch.equal(sample(off), radial)
    assert summaries[0]["radial_calls"] == summaries[1]["radial_calls"] > 0
    assert difference(sample(patch(wan, **EVERYTHING)), radial) > 1e-4


def in_steps(model, steps):
    """A model whose tokens an unknown pack reorders in these steps."""
    passes = []

    def wrapper(executor, x, t, concat, crossattn, control, options, **conditions):
        passes.append(1)
        flagged = {**options, UNKNOWN: len(passes) - 1 in steps}
        return executor(x, t, concat, crossattn, control, flagged, **conditions)

    return with_wrapper(model, wrapper)


WHY = "another pack reorders the video's tokens"


def test_any_order_is_seen(wan, summaries, any_density, reorder):
    plain = sample(wan)
    assert difference(sample(patch(in_steps(wan, range(9)))), plain) < 1e-5
    (summary,) = summaries
    assert summary["radial_calls"] == 0
    assert summary["dense_calls"][WHY] == BLOCKS * summary["model_calls"]


@pytest.mark.parametrize("patched", [False, True], ids=["alone", "beside the patch"])
def test_the_probe_does_not_measure_another_order(wan, any_density, reorder, patched):
    plain, model = sample(wan, steps=4, cfg=1.0), in_steps(wan, (1, 2))
    model = probe(patch(model, dense_steps=9) if patched else model, "0, 1, 2, 3")
    assert difference(sample(model, steps=4, cfg=1.0), plain) < 1e-5
    assert places(model) == [(step, block) for step in (0, 3) for block in range(BLOCKS)]
    assert run_of(model).reasons == {WHY: 2 * BLOCKS}
    blocks = model.model.diffusion_model.blocks
    assert len(blocks[0]._forward_pre_hooks) == 1  # of the pack; ours are gone


def test_a_check_of_the_probe_that_fails_spoils_no_render(wan, monkeypatch):
    plain = sample(wan)
    monkeypatch.setattr(token_order, "other_channels", lambda *arguments: 1 / 0)
    model = probe(wan)
    assert torch.equal(sample(model), plain)
    assert run_of(model).reasons == {"ZeroDivisionError: division by zero": 1}


def test_an_order_that_changes_in_a_run_is_seen_one_pass_later(
    wan, summaries, any_density, reorder
):
    """To know at once, each step would have to wait for the GPU."""
    sample(patch(in_steps(wan, (2, 3, 4))), steps=8, cfg=1.0)
    (summary,) = summaries
    assert summary["dense_calls"][WHY] == 3 * BLOCKS  # steps 3, 4 and 5
    assert summary["radial_calls"] == 5 * BLOCKS


def test_results_are_read_where_the_sampler_waits_anyway(wan, monkeypatch, any_density):
    reads, in_hook, cls = [], [], token_order.TokenOrder
    read, check = cls._read, cls.is_wrong

    def counted(self, *arguments):
        reads.append(1)
        read(self, *arguments)

    def watched(self, *arguments):
        before = len(reads)
        wrong = check(self, *arguments)
        in_hook.append(len(reads) - before)
        return wrong

    monkeypatch.setattr(cls, "_read", counted)
    monkeypatch.setattr(cls, "is_wrong", watched)
    monkeypatch.setattr(type(wan), "get_free_memory", lambda *args: 0)  # a pass a prompt
    sample(patch(wan), steps=4)
    assert in_hook == [1] + 7 * [0]
    assert len(reads) == 4


# A pack may put tokens of each family into another order. Mochi's would not be seen, nor LTX's
# where ComfyUI has no matrices for its rotations.
UNSEEN = ("mochi",) if hasattr(lightricks, "freqs_cis_matrix") else ("mochi", "ltx")
TYPICAL = [
    each
    for each in zoo.CASES
    if each.typical and each.is_there and not each.name.startswith(UNSEEN)
]


@pytest.mark.parametrize("case", TYPICAL, ids=lambda case: case.name)
def test_it_is_seen_in_every_family(case, summaries, any_density):
    """Only the rotations are reordered here. All tests of radial calls show the right order."""
    model, inputs = case.model(), case.inputs()
    video = case.grid[0] * case.grid[1] * case.grid[2]
    net = model.model.diffusion_model
    _, first = next(pack_module("nodes.families.transformer_blocks").transformer_blocks(net))

    def reordered(x):
        if isinstance(x, tuple):
            return tuple(map(reordered, x))
        if not torch.is_tensor(x) or x.shape[-2:] != (2, 2):
            return x
        dim = max(range(x.ndim), key=lambda dim: x.shape[dim])
        order = torch.arange(x.shape[dim])
        order[-video:] = order[-video:][torch.randperm(video)]
        return x.index_select(dim, order)

    def before(block, args, kwargs):
        return tuple(map(reordered, args)), {name: reordered(x) for name, x in kwargs.items()}

    first.register_forward_pre_hook(before, with_kwargs=True)
    zoo.sample(patch(model), inputs, steps=1)
    (summary,) = summaries
    assert summary["radial_calls"] == 0 < summary["dense_calls"][WHY]


def curve(*axes):
    """The place in raster order of each token along a Z-order curve over some of the axes."""

    def place(coordinates):
        bits = (x >> bit & 1 for bit in range(8) for x in (coordinates[axis] for axis in axes))
        code = sum(bit << n for n, bit in enumerate(bits))
        return tuple(x for axis, x in enumerate(coordinates) if axis not in axes), code

    return place


def rotations(grid, shift=0, dtype=torch.float32):
    """As of Wan, with heads of 128: (tokens, 64, 2, 2), frame by frame, row by row."""
    places = torch.cartesian_prod(*(torch.arange(n) for n in grid)) + shift
    angles = []
    for axis, channels in enumerate((22, 21, 21)):
        speeds = 10000.0 ** -(torch.arange(channels) / channels)
        angles.append(places[:, axis : axis + 1] * speeds)
    cos, sin = (f(torch.cat(angles, 1)) for f in (torch.cos, torch.sin))
    return torch.stack([cos, -sin, sin, cos], -1).unflatten(-1, (2, 2)).to(dtype)


GRIDS = [(21, 30, 52), (16, 32, 32), (37, 24, 42), (2, 8, 8)]
ORDERS_OF_TOKENS = {
    "Z-order": curve(2, 1, 0),
    "Z-order in each frame": curve(2, 1),
    "columns before rows": lambda place: (place[0], place[2], place[1]),
    "frames last": lambda place: (place[1], place[2], place[0]),
}


@pytest.mark.parametrize("grid", GRIDS, ids=lambda grid: "x".join(map(str, grid)))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_orders_of_real_sizes(grid, dtype):
    tokens = pack_module("nodes.families.base").TokenLayout(grid, before=60, after=5)
    places = torch.cartesian_prod(*(torch.arange(n) for n in grid)).tolist()

    def share(table):
        text = torch.eye(2, dtype=dtype).expand(65, 64, 2, 2)
        whole = torch.cat([text[:60], table, text[60:]])[None, :, None]
        return token_order.other_channels(tokens, [None, torch.ones(3), whole]).item()

    table = rotations(grid, dtype=dtype)
    assert share(table) == share(rotations(grid, shift=7, dtype=dtype)) == 0
    for name, key in ORDERS_OF_TOKENS.items():
        order = torch.tensor(sorted(range(len(places)), key=lambda i: key(places[i])))
        square = grid[1] == grid[2] and name == "columns before rows"  # turned by 90 degrees
        assert (share(table[order]) > token_order.MOST_CHANNELS) != square, name


def test_without_rotations_nothing_is_said():
    tokens = pack_module("nodes.families.base").TokenLayout((2, 8, 8))
    for arguments in ([], [torch.ones(128, 4)], [torch.ones(1, 99, 1, 8, 2, 2)]):
        assert token_order.other_channels(tokens, arguments) is None


def test_two_devices_may_begin_a_step_at_once():
    """Each has a thread: what one is about to read, the other may have read."""
    order, tokens = token_order.TokenOrder(), token_order.TokenLayout((4, 4, 4))
    rotations = torch.eye(2).expand(1, 64, 1, 4, 2, 2)

    class Unread(dict):
        def __iter__(self):
            grids = [*super().__iter__()]
            self.pop(tokens.grid, None)
            return iter(grids)

    for step in range(3):
        order._unread = Unread(order._unread)
        order.begin(step)
        assert not order.is_wrong(tokens, [rotations])


def test_a_check_that_fails_costs_nothing_else(wan, summaries, any_density, monkeypatch, caplog):
    expected = sample(patch(wan, dense_blocks=1))
    monkeypatch.setattr(token_order, "other_channels", lambda *arguments: 1 / 0)
    assert torch.equal(sample(patch(wan, dense_blocks=1)), expected)
    assert summaries[0] == summaries[1]
    assert caplog.text.count("hooks on the transformer blocks failed") == 1
