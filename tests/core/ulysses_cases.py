"""What cards do in tests of their exchange: functions of (group, device, ...) for `on_cards`."""

import os
import signal
import threading
import time
from pathlib import Path

import torch
from torch import distributed
from torch.nn.functional import scaled_dot_product_attention

from radial_core.ulysses.exchange import gather, own_heads, to_heads, to_tokens
from radial_core.ulysses.group import GroupFailed, connect
from radial_core.ulysses.token_share import share_sizes

HEADS = (12, 24, 40, 56)
# Tokens in each stream: they don't divide evenly, and some streams have fewer tokens than cards.
STREAMS = ((77, 5), (1, 30), (64, 2, 9), (3,))
DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float8_e4m3fn)


def share(numbers: torch.Tensor, group) -> torch.Tensor:
    """What a card has of numbers that are shared out, by torch's rule for uneven parts."""
    return numbers.tensor_split(group.size)[group.rank]


def own_tokens(lengths, group) -> torch.Tensor:
    starts = torch.tensor([0, *lengths]).cumsum(0)
    streams = zip(lengths, starts.tolist(), strict=False)
    return torch.cat([share(torch.arange(start, start + n), group) for n, start in streams])


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    a, b = a.contiguous(), b.contiguous()
    same_kind = a.dtype == b.dtype and a.shape == b.shape
    return same_kind and torch.equal(a.view(torch.uint8), b.view(torch.uint8))


def drawn(seed: int, shape: tuple, dtype: torch.dtype, device) -> torch.Tensor:
    """The same on all cards. Any bits: what is exchanged need not be a number."""
    generator = torch.Generator().manual_seed(seed)
    of_bytes = *shape[:-1], shape[-1] * dtype.itemsize
    drawn = torch.randint(256, of_bytes, dtype=torch.uint8, generator=generator)
    return drawn.to(device).view(dtype)


def round_trips(group, device, seed: int) -> None:
    for i, heads in enumerate(HEADS):
        for j, lengths in enumerate(STREAMS):
            seed, dtype, batch = seed + 1, DTYPES[(i + j) % len(DTYPES)], 1 + (i + j) % 2
            one_round_trip(group, device, seed, (batch, sum(lengths), heads, 16), dtype, lengths)


def one_round_trip(group, device, seed, shape, dtype, lengths) -> None:
    case = f"heads {shape[2]}, streams {lengths}, batch {shape[0]}, {dtype}"
    heads = share(torch.arange(shape[2]), group)
    whole = [drawn(3 * seed + i, shape, dtype, device) for i in range(3)]
    part = own_tokens(lengths, group).to(device)
    own = [x.view(torch.uint8)[:, part].view(dtype) for x in whole]
    own[1] = own[1].transpose(1, 2).contiguous().transpose(1, 2)  # as from (b, h, s, d)
    own[2] = torch.stack([own[2], own[2]], dim=3)[:, :, :, 0]  # as a part of q, k and v
    by_heads = to_heads(group, own, lengths)
    assert own_heads(shape[2], group) == slice(heads[0], heads[-1] + 1), case
    for x, found in zip(whole, by_heads, strict=True):
        assert found.is_contiguous() and same_bits(found, x[:, :, heads[0] : heads[-1] + 1]), case
    strided = by_heads[1].transpose(1, 2).contiguous().transpose(1, 2)
    for found, back in ((by_heads[0], own[0]), (strided, own[1])):
        assert same_bits(to_tokens(group, found, lengths, shape[2]), back), case
    begin = own_begin = 0
    for stream, length in enumerate(lengths):
        count, dim = len(share(torch.arange(length), group)), 1 + stream % 2
        x = own[0][:, own_begin : own_begin + count].transpose(1, dim)
        gathered = gather(group, x, dim, length)
        assert (gathered is None) == (group.rank > 0), case
        if gathered is not None:
            expected = whole[0][:, begin : begin + length]
            assert same_bits(gathered.transpose(1, dim), expected), case
        begin, own_begin = begin + length, own_begin + count


def attention(group, device, seed: int) -> None:
    """Computed by heads, it is what one card computes."""
    for heads, lengths, batch in ((12, (5, 77), 2), (56, (130,), 1), (24, (3, 50, 7), 1)):
        torch.manual_seed(seed)
        q, k, v = torch.randn(3, batch, sum(lengths), heads, 32).double().to(device)
        part = own_tokens(lengths, group).to(device)
        own = to_heads(group, [x[:, part].float() for x in (q, k, v)], lengths)
        found = to_tokens(group, _attend(*own), lengths, heads)
        torch.testing.assert_close(found.double(), _attend(q, k, v)[:, part], rtol=0, atol=1e-5)


def _attend(q, k, v):
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        return scaled_dot_product_attention(q, k, v).transpose(1, 2)


def broadcasts(group, device, seed: int) -> None:
    shapes = ((3, 4), torch.bfloat16), ((1,), torch.float32), ((0, 7), torch.float16)
    more = ((7, 1, 3), torch.float8_e5m2), ((2, 5), torch.int64), ((9,), torch.float64)
    for shape, dtype in shapes + more:
        first = drawn(seed, shape, dtype, device)
        mine = first.clone() if group.rank == 0 else torch.zeros_like(first)
        group.broadcast(mine)
        assert same_bits(mine, first), (shape, dtype)
    for value in (torch.tensor(3.5), torch.tensor(True), torch.nn.Parameter(torch.ones(2, 2))):
        mine = value.detach().clone() if group.rank == 0 else torch.zeros_like(value)
        mine = mine.to(device).requires_grad_(value.requires_grad)
        group.broadcast(mine)
        assert torch.equal(mine.cpu(), value)


def some_send_nothing(group, device) -> None:
    """Only the last card sends, and only to the first."""
    last, rank = group.size - 1, group.rank
    nothing = [0] * group.size
    sizes, out_sizes = list(nothing), list(nothing)
    sizes[0], out_sizes[last] = 3 * (rank == last), 3 * (rank == 0)
    x = torch.arange(sum(sizes), device=device, dtype=torch.float16)
    out = torch.full((sum(out_sizes),), 9, device=device, dtype=torch.float16)
    group.all_to_all(out, x, out_sizes, sizes).wait()
    assert out.tolist() == ([0, 1, 2] if rank == 0 else [])
    group.all_to_all(out[:0], x[:0], nothing, nothing).wait()


def beside_a_default_group(group, device, seed: int) -> None:
    """Another pack's torch.distributed neither hinders the cards nor is it touched."""
    assert not distributed.is_initialized()
    store = distributed.HashStore()
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        broadcasts(group, device, seed)
    finally:
        distributed.destroy_process_group()


def listening(group, device) -> list[str]:
    """Addresses, in hexadecimal, at which this process listens."""
    opened = {os.readlink(each) for each in Path("/proc/self/fd").iterdir() if each.is_symlink()}
    found = []
    for table in Path("/proc/self/net/tcp"), Path("/proc/self/net/tcp6"):
        for line in table.read_text().splitlines()[1:] if table.exists() else ():
            _, address, _, state, *_, inode = line.split()[:10]
            if state == "0A" and f"socket:[{inode}]" in opened:
                found.append(address.split(":")[0])
    return found


def everything(group, device, seed: int) -> None:
    round_trips(group, device, seed)
    attention(group, device, seed)
    broadcasts(group, device, seed)
    some_send_nothing(group, device)


def a_card_is_lost(group, device, how: signal.Signals) -> float:
    """Seconds until the others know that the last card was killed or stopped."""
    x = torch.ones(group.size, device=device)
    even = [1] * group.size
    group.all_to_all(torch.empty_like(x), x, even, even).wait()
    synchronize(device)
    if group.rank == group.size - 1:
        os.kill(os.getpid(), how)
    seconds = raises(lambda: exchanged(group, torch.empty_like(x), x))
    group.abort()
    assert raises(lambda: group.broadcast(x)) < 1 and raises(lambda: nothing(group, device)) < 1
    assert torch.arange(4, device=device).sum() == 6  # the device goes on
    return seconds


def aborted(group, device) -> float:
    """Seconds until the first card is free again. The last one never comes."""
    x, even = torch.ones(group.size, device=device), [1] * group.size
    group.all_to_all(torch.empty_like(x), x, even, even).wait()
    synchronize(device)
    if group.rank == group.size - 1:
        time.sleep(1.5)
        return 0
    if group.rank == 0:
        threading.Timer(0.5, group.abort).start()
    seconds = raises(lambda: exchanged(group, torch.empty_like(x), x))
    for _ in range(2):
        group.abort()
    assert raises(lambda: group.all_to_all(x, x, even, even)) < 1
    return seconds


def again(group, device, seed: int, store_file: Path) -> float:
    """After a group was aborted, the same processes make another."""
    seconds = aborted(group, device)
    group.abort()
    group.next = connect(store_file, group.rank, group.size, device, 20)
    everything(group.next, device, seed)
    return seconds


def milliseconds(group, device, tokens: int, heads: int) -> dict[str, float]:
    """What an exchange takes on GPUs in bf16, with 128 numbers a head."""
    own = len(share(torch.arange(tokens), group))
    x = torch.randn(1, own, heads, 128, device=device).bfloat16()
    (by_heads,), sizes = to_heads(group, [x], [tokens]), share_sizes(heads, group.size)
    return {
        "q, k and v to heads": _timed(lambda: to_heads(group, [x, x, x], [tokens])),
        "the output to tokens": _timed(lambda: to_tokens(group, by_heads, [tokens], heads)),
        "packing one tensor": _timed(lambda: [p.contiguous() for p in x.split(sizes, dim=2)]),
    }


def _timed(function, times: int = 20) -> float:
    for _ in range(3):
        function()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(times):
        function()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / times


def exchanged(group, out, x) -> None:
    """With all that it takes to know that it worked."""
    group.all_to_all(out, x, [1] * group.size, [1] * group.size).wait()
    synchronize(x.device)
    nothing(group, x.device)


def nothing(group, device) -> None:
    """An exchange that needs no other card. It raises GroupFailed if an earlier one failed."""
    x, none = torch.empty(0, device=device), [0] * group.size
    group.all_to_all(x, x, none, none).wait()


def raises(function) -> float:
    """Seconds until it raises GroupFailed."""
    begin = time.monotonic()
    try:
        function()
    except GroupFailed:
        return time.monotonic() - begin
    raise AssertionError("nothing was raised")


def synchronize(device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
