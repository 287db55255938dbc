"""cuDNN's attention, called without a flag that other threads would see. A fake computes it."""

import threading
from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from radial_core.backends import cudnn
from radial_core.call import Call

OPERATOR = "_scaled_dot_product_cudnn_attention"
FLAGS = ("flash", "mem_efficient", "math", "cudnn")


def flags():
    return [getattr(torch.backends.cuda, f"{name}_sdp_enabled")() for name in FLAGS]


@pytest.fixture
def gpu():
    """Registers a fake of the GPU's operator, and records its calls and the flags during them."""
    recorded = SimpleNamespace(calls=[], flags=[], gradients=[])

    def forward(q, k, v, bias, keeps_lse, *rest, scale=None):
        recorded.calls.append(((q, k, v), bias, keeps_lse, rest))
        other_thread = threading.Thread(target=lambda: recorded.flags.append(flags()))
        other_thread.start()
        other_thread.join()
        scores, none = q @ k.transpose(-1, -2) * scale, torch.empty(0)
        out, lse = scores.softmax(-1) @ v, scores.logsumexp(-1, keepdim=True)
        return out, lse, none, none, q.shape[2], k.shape[2], none, none, none

    def backward(weight, q, k, v, out, lse, *rest, scale=None):
        recorded.gradients.append(weight.transpose(1, 2).is_contiguous())
        share = (q @ k.transpose(-1, -2) * scale - lse).exp()
        inner = share * (weight @ v.transpose(-1, -2) - (weight * out).sum(-1, keepdim=True))
        by_q, by_k = inner @ k * scale, inner.transpose(-1, -2) @ q * scale
        return by_q, by_k, share.transpose(-1, -2) @ weight

    library = torch.library.Library("aten", "IMPL", "CPU")
    library.impl(OPERATOR, forward)
    library.impl(f"{OPERATOR}_backward", backward)
    yield recorded
    library._destroy()


def draw(requires_grad):
    q, k, v = torch.randn(3, 2, 21, 3, 16).unbind(0)
    return [x.requires_grad_(requires_grad) for x in (q, k, v)]


def truth(q, k, v):
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return scaled_dot_product_attention(q, k, v, scale=0.3).transpose(1, 2)


@pytest.mark.parametrize("grad", [False, True])
def test_sets_no_flag_and_returns_the_lse_if_gradients_need_it(gpu, grad):
    before, qkv = flags(), draw(grad)
    out = cudnn.dense(*qkv, 0.3)
    assert torch.allclose(out, truth(*qkv), atol=1e-6)
    assert [call[1:] for call in gpu.calls] == [(None, grad, ())]
    assert gpu.flags == [before] and flags() == before
    if grad:
        weight = torch.randn_like(out)
        gradients = torch.autograd.grad(out, qkv, weight)
        expected = torch.autograd.grad(truth(*qkv), qkv, weight)
        assert all(
            torch.allclose(a, b, atol=1e-6) for a, b in zip(gradients, expected, strict=True)
        )


def test_its_gradient_always_has_the_same_memory_layout(gpu):
    """Because torch reuses a graph of cuDNN's backward for gradients of any layout."""
    for change in (
        torch.Tensor.contiguous,
        lambda x: x.transpose(1, 2).contiguous().transpose(1, 2),
    ):
        qkv = draw(True)
        out = cudnn.dense(*(change(x) for x in qkv), 0.3)
        for weight in (torch.randn(out.shape), torch.randn(2, 3, 21, 16).transpose(1, 2)):
            gradients = torch.autograd.grad(out, qkv, weight, retain_graph=True)
            expected = torch.autograd.grad(truth(*qkv), qkv, weight)
            for a, b in zip(gradients, expected, strict=True):
                assert torch.allclose(a, b, atol=1e-6)
    assert gpu.gradients == [True] * 4


def test_copies_only_tensors_that_it_can_not_read(gpu):
    q, k, v = draw(False)
    scattered = torch.stack([q, q], dim=-1)[..., 0]
    out = cudnn.dense(scattered, k, v, 0.3)
    assert torch.allclose(out, truth(q, k, v), atol=1e-6)
    read_q, read_k, _ = gpu.calls[0][0]
    assert read_q.stride(-1) == 1 and read_k.data_ptr() == k.data_ptr()


def test_a_torch_without_the_operator_is_declined(monkeypatch):
    call = Call(torch.device("cuda", 0), torch.bfloat16, 128, 128)
    assert cudnn.why_not_dense(call) is None
    monkeypatch.setattr(cudnn, "DENSE_OPERATOR", "_an_operator_of_tomorrow")
    assert cudnn.why_not_dense(call) == "this torch has no cuDNN attention"


def test_deterministic_algorithms_decline_it(monkeypatch):
    call = Call(torch.device("cuda", 0), torch.bfloat16, 128, 128)
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    assert cudnn.why_not_dense(call) == "cuDNN's attention is not deterministic"
    monkeypatch.setattr(torch, "is_deterministic_algorithms_warn_only_enabled", lambda: True)
    assert cudnn.why_not_dense(call) is None
