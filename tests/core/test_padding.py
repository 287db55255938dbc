import pytest
import torch

from radial_core.padding import absent_tokens, with_padding, without_padding

LOWEST = torch.finfo(torch.float32).min


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(7,), (1, 7), (1, 1, 7), (1, 1, 1, 7)])
def test_an_additive_mask(dtype, shape):
    mask = torch.zeros(7, dtype=dtype)
    mask[[1, 4]] = torch.tensor([-torch.inf, torch.finfo(dtype).min], dtype=dtype)
    assert absent_tokens(mask.view(shape), 7) == (1, 4)


def test_a_bool_mask_keeps_what_is_true():
    assert absent_tokens(torch.tensor([True, False, True]), 3) == (1,)


def test_a_mask_that_masks_nothing():
    assert absent_tokens(torch.zeros(1, 1, 5), 5) == ()


@pytest.mark.parametrize(
    "mask",
    [
        torch.tensor([0, -1.5, 0]),  # a bias
        torch.tensor([0, 1.5, LOWEST]),
        torch.tensor([0, 0, 1]),
        torch.zeros(3, 3),
        torch.zeros(2, 1, 3),
        torch.zeros(1, 1),
        torch.tensor(0.0),
    ],
)
def test_other_masks_are_not_padding(mask):
    assert absent_tokens(mask, 3) is None


@pytest.mark.parametrize("heads_first", [False, True])
@pytest.mark.parametrize("absent", [(0,), (5,), (3, 4, 5), (0, 2, 3), (0, 1, 2, 3, 4, 5)])
@pytest.mark.parametrize("grad", [False, True])
def test_closing_up_and_opening_up(heads_first, absent, grad):
    whole = torch.randn(2, 3, 11, 4) if heads_first else torch.randn(2, 11, 3, 4)
    whole = whole.transpose(1, 2) if heads_first else whole
    given = whole.clone().requires_grad_(grad)
    present = [i for i in range(11) if i not in absent]
    with without_padding([given], 6, absent) as (x,):
        assert torch.equal(x, whole[:, present])
        out = with_padding(x, 6, absent)
    assert torch.equal(given, whole)
    assert torch.equal(out[:, present], whole[:, present])
    assert not out[:, list(absent)].any()


def test_tensors_are_restored_even_if_the_call_fails():
    x = torch.randn(1, 9, 1, 2)
    before = x.clone()
    with pytest.raises(RuntimeError), without_padding([x], 4, (1,)):
        raise RuntimeError
    assert torch.equal(x, before)


def test_gradients_reach_the_present_tokens():
    x = torch.randn(1, 9, 1, 2, requires_grad=True)
    with without_padding([x], 4, (1,)) as (y,):
        with_padding(y * 2, 4, (1,)).sum().backward()
    assert x.grad[:, 1].eq(0).all() and x.grad[:, [0, 2, 8]].eq(2).all()
