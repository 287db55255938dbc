"""What the core remembers of a sampler run, and forgets when it has ended."""

from . import attention, dense, failures, fused, plan, proof
from .adaptive import choice


def next_run() -> None:
    """To be called when a sampler run has ended: what failed in it may work in the next.

    Plans are freed, with the tables that backends made of them. Compiled kernels and finished
    proofs, passed or failed, stay.
    """
    attention.forget_choices()
    dense.forget_choices()
    proof.forget_tries()
    failures.next_run()
    fused.next_run()
    plan.forget_plans()
    choice.forget_rows()
