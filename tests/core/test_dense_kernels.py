"""The fastest exact dense kernel: which one is chosen, and what happens when one fails."""

import pytest
import torch
from registering import forget, register
from torch.nn.functional import scaled_dot_product_attention

from radial_core import VideoLayout, dense, proof
from radial_core.backends.contract import EXACT
from radial_core.dense import dense_attention, fastest_dense


class Kernel:
    ACCURACY = EXACT

    def __init__(self):
        self.calls, self.error, self.reason, self.factor = 0, None, None, 1

    def why_not_dense(self, call):
        return self.reason

    def dense(self, q, k, v, softmax_scale):
        self.calls += 1
        if self.error is not None:
            raise self.error
        q, k, v = (x.transpose(1, 2) for x in (q, k, v * self.factor))
        return scaled_dot_product_attention(q, k, v, scale=softmax_scale).transpose(1, 2)


@pytest.fixture
def kernels(monkeypatch):
    made = {"fast": Kernel(), "second": Kernel()}
    forget()
    register(monkeypatch, **made)
    # tests/core/test_dispatch.py tests the real proof.
    monkeypatch.setattr(proof, "LAYOUT", VideoLayout(3, 5, 9, prefix=7, suffix=5))
    yield made
    forget()


def draw():
    return torch.randn(3, 2, 50, 3, 16).unbind(0)


def check(expected, **options):
    q, k, v = draw()
    out, name = dense_attention(q, k, v, **options)
    truth = scaled_dot_product_attention(
        *(x.transpose(1, 2) for x in (q, k, v)), scale=options.get("softmax_scale")
    )
    assert name == expected and torch.allclose(out, truth.transpose(1, 2), atol=1e-6)


def test_on_a_cpu_torchs_own_attention_runs():
    assert fastest_dense(*draw()) is None
    check("sdpa")


def test_runs_the_first_kernel_that_can(kernels):
    check("fast", softmax_scale=0.3)
    kernels["fast"].reason = "not installed"
    dense._choices.clear()
    check("second")


def test_a_wrong_kernel_is_never_used(kernels):
    kernels["fast"].factor = 1.1
    check("second")
    calls = kernels["fast"].calls
    check("second")
    assert kernels["fast"].calls == calls == 1  # its proof


def test_a_failing_kernel_is_not_called_again(kernels):
    check("fast")
    kernels["fast"].error = RuntimeError("broke")
    check("sdpa")
    check("second")


@pytest.mark.parametrize("at", ["the proof", "a call"])
def test_a_kernel_without_memory_is_called_again(kernels, at):
    if at == "a call":
        check("fast")
    kernels["fast"].error = torch.cuda.OutOfMemoryError("CUDA out of memory")
    check("second" if at == "the proof" else "sdpa")
    kernels["fast"].error = None
    check("fast")


def test_keys_of_another_length_run_in_torch(kernels):
    q, k, v = draw()
    assert fastest_dense(q, k[:, :40], v[:, :40]) is None
    assert dense_attention(q, k[:, :40], v[:, :40])[0].shape == q.shape
