"""What is known of one forward pass of the model."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from ..comfyui.option_keys import KEY, MORTON, PREVIOUS, SLOT
from ..families.registry import another_packs_class, class_name, family_of
from ..run.reasons import Reason, Why
from ..run.run_reporter import RunReporter
from .adaptive import PassLists
from .block_numbers import BlockNumbers
from .decision import PassFacts, why_pass_is_dense
from .token_order import TokenOrder


class Run(Protocol):
    token_order: TokenOrder


class Override(Protocol):
    """What a forward pass has on the attention hook."""

    reporter: RunReporter
    run: Run

    def attend(self, forward: "ForwardPass", func, q, k, v, heads: int, kwargs: dict): ...


@dataclass(eq=False)
class ForwardPass:
    """What all attention calls of one forward pass have in common.

    In training, a call may come again after the pass, for gradients: it must run as it did before.

    override: ours. previous: the override that was on the hook before it. step: in the record of
    the run. preferred: block -> the attention function that the checkpoint chose for it, if any.
    takes_containers: whether a dense call may go to what takes q, k and v in ComfyUI's containers.
    stays_exact: gradients may be asked for. lists: what its sparse calls look for; None if they are
    radial.
    """

    override: Override
    previous: Callable | None
    facts: PassFacts
    step: int
    preferred: dict[int | None, Callable] = field(default_factory=dict)
    takes_containers: bool = False
    training: bool = False
    stays_exact: bool = False
    lists: PassLists | None = None
    sparse_calls: Counter = field(default_factory=Counter)  # of each block
    sparse_blocks: set[int] = field(default_factory=set)  # those that ran sparse
    ended: bool = False
    self_attention_calls: int = 0  # over the video, so far
    blocks: set[int | None] = field(default_factory=set)  # those in the record of this pass
    block: int | None = None  # the main one that runs now, or ran last
    all_hooked: bool = False
    why_dense: Why | None = None
    numbers: BlockNumbers = field(init=False)

    def __post_init__(self):
        self.numbers = BlockNumbers(self.facts.tokens)
        self.override.run.token_order.begin(self.step)

    def check_order(self, diffusion_model, arguments: Iterable) -> None:
        """Look at what the first block gets. Dense from now on if the tokens are out of order."""
        if self.override.run.token_order.is_wrong(self.facts.tokens, arguments):
            self.why_dense = reordered(diffusion_model)


def reordered(diffusion_model) -> Why:
    """What is said of a pass whose tokens come out of order."""
    return Why(Reason.REORDERED, another_packs_class(diffusion_model) or "another pack")


def why_all_dense(diffusion_model, x, options: dict) -> Why | None:
    """Why no call of a forward pass can be sparse; None if some can.

    x: the latent. options: the pass's transformer_options.
    """
    return why_pass_is_dense(
        model_class=class_name(diffusion_model),
        is_known=family_of(diffusion_model) is not None,
        latent_dims=x.ndim,
        has_cached_frames=options.get("ar_state") is not None,
        reordered_by="Sol-Attn's morton option" if options.get(MORTON) else None,
    )


def hook_before_ours(options: dict) -> Callable | None:
    """The override that a call with these transformer_options would meet without ours."""
    ours = options.get(KEY)
    if ours is not None and options.get(SLOT) is ours.override:
        return options.get(PREVIOUS, ours.previous)
    return options.get(SLOT)
