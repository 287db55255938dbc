"""A card's share of the tokens, against every token with its number."""

import pytest
import torch

from radial_core.ulysses.token_share import TokenShare, share_of, share_sizes

CARDS = (1, 2, 3, 4, 8)
STREAMS = ((77,), (5, 77), (1, 30), (64, 2, 9), (3,), (1560,))
on_shares = pytest.mark.parametrize("lengths", STREAMS, ids=str)


@pytest.fixture(autouse=True)
def fresh():
    print(f"torch.manual_seed({torch.seed()})")  # shown if a test fails


def shares(lengths):
    """(share, numbers of its tokens in each stream) of each card, by torch's uneven split.

    Where a stream has fewer tokens than cards, the last ones hold a copy of its last token.
    """
    for cards in CARDS:
        for rank in range(cards):
            share = TokenShare(rank, cards)
            share.begin(*lengths)
            streams = [torch.arange(n) for n in lengths]
            own = [numbers.tensor_split(cards)[rank] for numbers in streams]
            yield share, [o if len(o) else n[-1:] for o, n in zip(own, streams, strict=True)]


def in_sequence(lengths, own):
    """Numbers in each stream -> numbers in the sequence of all streams."""
    starts = [sum(lengths[:i]) for i in range(len(lengths))]
    return torch.cat([numbers + start for numbers, start in zip(own, starts, strict=True)])


@pytest.mark.parametrize("total", [0, 1, 2, 7, 12, 40, 56, 1001])
def test_sizes(total):
    for cards in CARDS:
        expected = [len(part) for part in torch.arange(total).tensor_split(cards)]
        assert share_sizes(total, cards) == expected
        parts = [range(total)[share_of(total, cards, card)] for card in range(cards)]
        assert [each for part in parts for each in part] == [*range(total)]


@on_shares
def test_tokens(lengths):
    for share, own in shares(lengths):
        assert share.count == sum(map(len, own))
        for stream, numbers in enumerate(own):
            for dim in (1, 2):
                x = torch.rand(2, lengths[stream], 3).movedim(1, dim)
                cut = share.tokens(x, dim, stream)
                assert torch.equal(cut, x.index_select(dim, numbers))
                assert cut.is_contiguous() and cut.data_ptr() != x.data_ptr()
                if share.size > 1 and len(numbers) < lengths[stream]:
                    assert share.tokens(cut, dim, stream) is cut


def test_tokens_of_another_length():
    share = TokenShare(1, 2)
    share.begin(5, 77)
    with pytest.raises(ValueError, match="expected 77 tokens or a share, got 39"):
        share.tokens(torch.rand(1, 39, 2), 1, 1)
    share.begin(5, 77)
    with pytest.raises(ValueError, match=r"streams of \(5, 77\) tokens, then of \(5, 78\)"):
        share.begin(5, 78)


@on_shares
def test_table(lengths):
    for share, own in shares(lengths):
        x = torch.rand(1, sum(lengths), 4)
        cut = share.table(x, 1)
        assert torch.equal(cut, x[:, in_sequence(lengths, own)]) and share.table(x, 1) is cut
        other = torch.rand_like(x)
        assert torch.equal(share.table(other, 1), other[:, in_sequence(lengths, own)])
        for stream, numbers in enumerate(own):
            of_stream = torch.rand(lengths[stream], 4)
            assert torch.equal(share.table(of_stream, 0, stream), of_stream[numbers])


@pytest.mark.parametrize("tokens, rows", [(60, 5), (60, 60), (62, 5), (63, 5), (7, 2), (3, 5)])
def test_repeated(tokens, rows):
    """As ComfyUI's repeat_e in comfy/ldm/wan/model.py says, and then cut."""
    e = torch.rand(2, rows, 6, 4)
    times = tokens // rows if tokens % rows == 0 else tokens // rows + 1
    whole = e.repeat_interleave(times, dim=1)[:, :tokens]
    for share, (numbers,) in shares((tokens,)):
        cut = share.repeated(e, 1)
        by_token = cut.repeat_interleave(len(numbers) // cut.shape[1], dim=1)
        assert torch.equal(by_token, whole[:, numbers]) and share.repeated(e, 1) is cut


def drawn_segments(total):
    """(segments, the label of each token, -1 outside of all). Some are empty, some have gaps."""
    bounds = torch.randint(total + 1, (8,)).sort().values.tolist()
    segments, labels = [], torch.full((total,), -1)
    for label, (start, stop) in enumerate(zip(bounds[::2], bounds[1::2], strict=True)):
        segments.append((start, stop, label))
        labels[start:stop] = label
    start = bounds[-1]
    segments.append((start, None, 9))
    labels[start:] = 9
    return segments, labels


@on_shares
def test_segments(lengths):
    for share, own in shares(lengths):
        totals = [(None, sum(lengths), in_sequence(lengths, own))]
        totals += [(i, lengths[i], numbers) for i, numbers in enumerate(own)]
        for stream, total, numbers in totals:
            segments, labels = drawn_segments(total)
            found = torch.full((len(numbers),), -1)
            for start, stop, label in share.segments(segments, stream):
                assert 0 <= start < stop <= len(numbers) and (found[start:stop] == -1).all()
                found[start:stop] = label
            assert torch.equal(found, labels[numbers])


@on_shares
def test_segments_with_a_row_for_each_token(lengths):
    for share, own in shares(lengths):
        total = sum(lengths)
        rows = torch.rand(total, 3)
        at = total // 3
        segments = [(0, at, rows[:at]), (at, total, rows[at:])]
        found = torch.full((share.count, 3), torch.nan)
        for start, stop, of_tokens in share.segments(segments):
            found[start:stop] = of_tokens
        assert torch.equal(found, rows[in_sequence(lengths, own)])


@on_shares
def test_copies(lengths):
    """Attention gets each token once, and its output has zeros for copies."""
    cards: dict[int, list] = {}
    x = torch.rand(2, sum(lengths), 3)
    for share, held in shares(lengths):
        x_held = x[:, in_sequence(lengths, held)]
        own = share.without_copies(x_held, 1)
        cards.setdefault(share.size, []).append((share, own))
        back = share.with_copies(own, 1)
        assert back.shape == x_held.shape
        assert torch.equal(share.without_copies(back, 1), own)
        rows = back.abs().sum((0, 2))
        assert (rows == 0).sum() == share.count - own.shape[1]
    for size, of_cards in cards.items():
        for i, length in enumerate(lengths):
            counts = [share.own_count(i) for share, _ in of_cards]
            assert sum(counts) == length and len(counts) == size
        assert sum(own.shape[1] for _, own in of_cards) == sum(lengths)
