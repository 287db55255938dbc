"""Two GPUs exchange tokens and heads over NCCL, in processes of their own.

The cases are those of tests/core/test_ulysses_group.py.
"""

import signal

import pytest
import torch
import ulysses_cases as cases
from card_processes import on_cards

SLOW = {"device": "cuda", "limit": 240}  # NCCL takes seconds to start


@pytest.fixture(autouse=True)
def two_gpus():
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")


@pytest.fixture
def seed():
    drawn = torch.randint(2**31, ()).item()
    print(f"seed {drawn}")  # shown if a test fails
    return drawn


def test_exchange(seed):
    on_cards(cases.everything, 2, seed, **SLOW)


def test_the_default_group_is_left_alone(seed):
    on_cards(cases.beside_a_default_group, 2, seed, **SLOW)


def test_nothing_listens_beyond_this_computer():
    for addresses in on_cards(cases.listening, 2, **SLOW):
        # 127.0.0.1, also as IPv6 shows it, and ::1
        assert set(addresses) <= {"0100007F", f"{0:016}FFFF00000100007F", f"{0:024}01000000"}


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=lambda how: how.name)
def test_a_lost_card_costs_the_time_limit_and_not_the_process(how):
    seconds, _ = on_cards(cases.a_card_is_lost, 2, how, seconds=15, lost=[1], **SLOW)
    assert seconds < 30


def test_another_group_after_an_aborted_one(tmp_path, seed):
    """The time limit is never reached: it is `abort` that frees the stream."""
    seconds, _ = on_cards(cases.again, 2, seed, tmp_path / "again", seconds=60, **SLOW)
    assert 0.4 < seconds < 10


def test_what_an_exchange_takes(capsys):
    for found in on_cards(cases.milliseconds, 2, 75_600, 40, **SLOW)[:1]:
        with capsys.disabled():
            print("\n75,600 tokens, 40 heads, bf16, two GPUs:")
            for what, taken in found.items():
                print(f"{taken:8.3f} ms  {what}")
