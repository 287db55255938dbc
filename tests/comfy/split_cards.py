"""Several cards in one process: a thread for each, with a model of its own."""

import copy
import inspect
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field, replace

import torch
import zoo
from conftest import difference, pack_module

KEY = pack_module("nodes.comfyui.option_keys").KEY
current_pass = pack_module("nodes.hook.current_pass")
hooked_blocks = pack_module("nodes.hook.block_hooks").hooked_blocks
split_pass = pack_module("nodes.cards.split_pass")
innermost = pack_module("nodes.cards.pass_call").innermost

SECONDS = 20  # that a card waits for the others


@dataclass(frozen=True)
class Card:
    """A `Group` of threads. sent: of each card, what it sends to each."""

    rank: int
    size: int
    barrier: threading.Barrier
    sent: list

    def all_to_all(self, out, x, out_sizes, sizes):
        self.sent[self.rank] = x.split(sizes)
        self.barrier.wait()
        for place, sent in zip(out.split(out_sizes), self.sent, strict=True):
            assert place.shape == sent[self.rank].shape
            place.copy_(sent[self.rank])
        self.barrier.wait()  # until then nobody changes what it sent
        return self

    def wait(self):
        pass


def on_cards(cards: int, of_card: Callable) -> list:
    """of_card(a `Group`) on all cards at once. -> what each returned or raised."""
    barrier, sent = threading.Barrier(cards, timeout=SECONDS), [None] * cards
    outcomes = [None] * cards

    def run(card):
        try:
            with torch.inference_mode():
                outcomes[card.rank] = of_card(card)
        except Exception as error:
            outcomes[card.rank] = error
            if not isinstance(error, split_pass.Done | split_pass.NotSplit):
                barrier.abort()  # the others need not wait

    all_cards = (Card(rank, cards, barrier, sent) for rank in range(cards))
    threads = [threading.Thread(target=run, args=(card,)) for card in all_cards]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


@dataclass
class Comparison:
    """Passes of a model, each on one card and on several.

    cards: how many. nets: a copy of the model for each card.
    """

    cards: tuple[int, ...]
    nets: list
    differences: list[float] = field(default_factory=list)
    sparse_blocks: list[set] = field(default_factory=list)  # of each card in each pass

    def compare(self, whole, call: dict) -> None:
        for cards in self.cards:
            first, *others = on_cards(cards, lambda card: self.on_card(card, call))
            if isinstance(first, split_pass.NotSplit):  # then so on all cards: none waits for it
                assert {type(each) for each in others} == {split_pass.NotSplit}
                raise first
            errors = [each for each in (first, *others) if isinstance(each, Exception)]
            errors = [each for each in errors if not isinstance(each, split_pass.Done)]
            if errors:  # of the card that failed, before those that waited for it
                raise min(errors, key=lambda each: isinstance(each, threading.BrokenBarrierError))
            assert all(isinstance(other, split_pass.Done) for other in others)
            for own, other in zip(_tensors(first), _tensors(whole), strict=True):
                self.differences.append(difference(own, other))

    def on_card(self, card: Card, call: dict):
        """This card's part of a pass. call: the arguments of the forward, by name."""
        net = self.nets[card.rank]
        split = split_pass.SplitPass(net, card)
        options = split.options(call["transformer_options"])
        radial = options.get(KEY)
        hooked = in_pass = nullcontext()
        if radial is not None:  # a thread and a model of their own: so a pass of their own
            radial = replace(radial, blocks=set(), sparse_blocks=set(), sparse_calls=Counter())
            options[KEY] = radial
            in_pass = current_pass.in_pass(radial, options)
            hooked = hooked_blocks(radial, net)
        with in_pass, hooked, split.hooked():
            try:
                return getattr(net, innermost(net))(**call | {"transformer_options": options})
            finally:
                if radial is not None:
                    self.sparse_blocks.append(radial.sparse_blocks)


def _tensors(output) -> list:
    return [output] if torch.is_tensor(output) else list(output)


def compared(model, inputs: zoo.Inputs, cards=(2, 3), **sampling) -> Comparison:
    """Sample one step, and run each forward pass on one card and on several."""
    net = model.get_model_object("diffusion_model")
    name = innermost(net)
    comparison = Comparison(cards, [copy.deepcopy(net) for _ in range(max(cards))])
    forward = getattr(net, name)
    signature = inspect.signature(forward)

    def spy(*args, **kwargs):
        call = dict(signature.bind(*args, **kwargs).arguments)
        call |= call.pop("kwargs", {})
        options = dict(call["transformer_options"])
        whole = forward(**call)
        comparison.compare(whole, call | {"transformer_options": options})
        return whole

    setattr(net, name, spy)
    try:
        zoo.sample(model, inputs, steps=1, **sampling)
    finally:
        delattr(net, name)
    assert comparison.differences
    return comparison
