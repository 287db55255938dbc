"""What a run on several GPUs says of itself: on the nodes, in the log and in the report."""

import json
import logging
import re

import pytest
import zoo
from conftest import pack_module, patch, with_wrapper
from multi_gpu import cards_on_the_cpu, wide
from test_summary_text import MIXED, run_of, texts, why

import nodes

CARDS = pack_module("nodes.cards.wrapper")
TOOK = r"[\d.]+ m?s of communication \(\d+ % of their time\)"
STEPS = 4  # of one pass each


@pytest.fixture(scope="module", autouse=True)
def two_cards():
    with cards_on_the_cpu():
        yield


@pytest.fixture(scope="module")
def wan():
    return wide(num_layers=3)


@pytest.fixture
def told(monkeypatch):
    """What the page gets for Radial Multi-GPU."""
    sent = []
    monkeypatch.setattr(CARDS.page, "send", lambda event, data: sent.append((event, data)))
    return sent


def multi(model, gpus=2):
    model = model.clone()
    pack_module("nodes.cards.attach").attach(model, gpus, "7")
    return model


def sample(model):
    return zoo.sample(model, zoo.wan.video(), steps=STEPS)


def report(samples, model):
    node = nodes.NODE_CLASS_MAPPINGS["RadialAttentionReport"]
    out = node.execute({"samples": samples}, model)
    return out.args[2], json.loads(out.args[3])["runs"][0]


def before_each_pass(model, act):
    """act(number, transformer_options), inside of what Radial Multi-GPU puts on the model."""
    numbers = iter(range(100))

    def wrapper(executor, *args, **named):
        act(next(numbers), args[5])
        return executor(*args, **named)

    return with_wrapper(model, wrapper)


def test_a_dense_run_is_told_on_the_node_and_in_the_log(wan, told, caplog):
    with caplog.at_level(logging.INFO, "radial_attention"):
        sample(multi(wan))
    ((event, data),) = told
    assert (event, data["node"]) == ("radial_attention.cards", "7")
    assert re.fullmatch(f"2 GPUs, {STEPS} passes, {TOOK}", data["status"])
    assert caplog.messages[-1] == f"Radial Multi-GPU: {data['status']}"


@pytest.mark.parametrize("patch_first", [True, False])
def test_a_radial_run_adds_up_both_cards(wan, told, summaries, any_density, patch_first):
    settings = {"dense_steps": 1}
    model = multi(patch(wan, **settings)) if patch_first else patch(multi(wan), **settings)
    text, run = report(sample(model), model)
    ((_, data),), (summary,) = told, summaries
    assert f"; on {data['status']}" in summary["status"] and data["status"] in summary["text"]
    assert f"\nOn {data['status']}.\n" in text
    totals, gpus = run["totals"], run["totals"]["gpus"]
    assert (gpus["gpus"], gpus["passes"], gpus["split_passes"]) == (["cpu", "cpu"], STEPS, STEPS)
    assert 0 < gpus["communication_seconds"] < gpus["split_seconds"] < totals["seconds"]
    (other,) = gpus["others"]
    assert other["radial_calls"] == totals["radial_calls"] == 3 * (STEPS - 1)
    assert other["dense_calls"] == totals["dense_calls"] == {"dense step": 3}
    assert not other["failures"] and gpus["why_one"] is None
    each = [totals["attention_seconds"], other["attention_seconds"]]
    assert gpus["attention_seconds"] == each and min(each) > 0
    assert totals["attention_seconds_of_all"] == sum(each)
    assert re.search(r"\nSelf-attention took .+ on cpu, .+ on cpu: .+ in all\.\n", text)
    assert summary["gpus"] == {k: v for k, v in gpus.items() if k != "attention_seconds"}


def test_fewer_cards_than_asked_for(wan, told):
    sample(multi(wan, 3))
    ((_, data),) = told
    asked = r"\(3 GPUs were asked for, ComfyUI sees 2\)"
    assert re.fullmatch(f"2 GPUs {asked}, {STEPS} passes, {TOOK}", data["status"])


def test_why_a_run_was_on_one(wan, told, summaries):
    model = multi(patch(wan), 1)
    text, run = report(sample(model), model)
    ((_, data),), (summary,) = told, summaries
    assert data["status"] == "1 GPU: no more were asked for"
    assert "; on 1 GPU: no more" in summary["status"] and "On 1 GPU: no more" in text
    assert run["totals"]["gpus"]["passes"] == STEPS
    assert run["totals"]["gpus"]["attention_seconds"] is None


def test_passes_that_are_not_split(wan, told, summaries, any_density):
    def patched(number, options):
        if number in (1, 2):
            options["patches"] = {"x": [lambda *_: None]}

    model = before_each_pass(multi(patch(wan, dense_steps=1)), patched)
    _, run = report(sample(model), model)
    sample(before_each_pass(multi(wan), lambda _, options: patched(1, options)))
    some, none = (data["status"] for _, data in told)
    expected = f"2 GPUs in 2 of {STEPS} passes, {TOOK}; 1 GPU in the others: a node patches x"
    assert re.fullmatch(expected, some) and some in summaries[0]["status"]
    # The only dense calls are on a share of the heads. Those on all can't be compared to them.
    assert run["saving"]["how"] == "estimated"
    assert none == "1 GPU: a node patches x"


def test_a_run_of_no_pass_says_nothing(wan, told, caplog):
    model = multi(wan)
    model.cleanup()
    assert told == [] and not caplog.messages


def test_another_card_that_ends_last(wan, told, summaries, monkeypatch):
    """The figures of this process are told all the same."""
    monkeypatch.setattr(CARDS, "EndRun", lambda _: CARDS.Lost)
    team = pack_module("nodes.cards.team").Team
    ask = team.ask

    def lost(self, message):
        if message is CARDS.Lost:
            raise CARDS.Lost("gone")
        return ask(self, message)

    monkeypatch.setattr(team, "ask", lost)
    model = multi(patch(wan))
    text, _ = report(sample(model), model)
    ((_, data),) = told
    assert (
        re.fullmatch(f"2 GPUs, {STEPS} passes, {TOOK}", data["status"]) and data["status"] in text
    )
    assert "Self-attention took" not in text


def test_a_run_that_loses_a_card(wan, told, summaries):
    def kill(number, _):
        if number == 2:
            for team in pack_module("nodes.cards.team")._teams.values():
                for process in team.processes:
                    process.kill()

    sample(before_each_pass(multi(patch(wan)), kill))
    ((_, data),), (summary,) = told, summaries
    expected = f"2 GPUs in 2 of {STEPS} passes, {TOOK}; 1 GPU from then on: the process of cpu has"
    assert re.match(expected, data["status"]) and data["status"] in summary["status"]
    assert "goes on" not in data["status"]


def found(*others, **more):
    """What figures() finds: 110 passes on a card and its others."""
    cards = pack_module("nodes.cards.figures")
    passes = cards.Passes(110, 110, 60.0, 4.1)
    gpus = [f"cuda:{i}" for i in range(1 + len(others))]
    return {**cards.figures([], passes, []), "gpus": gpus, "others": list(others), **more}


def other(run, **more):
    """What another card did: by itself, the same as the model's own."""
    names = "radial_calls", "adaptive_calls", "dense_calls", "attention_seconds"
    of_totals = {name: run["totals"].get(name, 0) for name in names}
    return {**of_totals, **{n: run[n] for n in ("backend", "precisions", "failures")}, **more}


def said(run, *others, **more):
    """What the line of a run says of its GPUs; all texts say the same."""
    run["totals"]["gpus"] = found(*others, **more)
    lines = pack_module("nodes.run.gpus_text").notes(run)
    assert all(line[1:] in text for line in lines for text in texts(run))
    return lines


def test_the_line_of_a_run():
    on_two = "on 2 GPUs, 110 passes, 4.1 s of communication (7 % of their time)"
    run = run_of("dense step", MIXED, MIXED)
    assert said(run, other(run)) == [on_two]
    assert said(run, None) == [on_two]  # no radial pass there
    assert "of communication;" in said(run, other(run), split_seconds=0.0, why_one="gone")[0]
    one = {"split_passes": 1, "passes": 1, "split_seconds": 0.5, "communication_seconds": 0.02}
    assert said(run, other(run), **one) == [
        "on 2 GPUs, 1 pass, 20 ms of communication (4 % of its time)"
    ]
    both = {"split_passes": 60, "why_not_split": ["ControlNet"], "why_one": "out of memory"}
    (line,) = said(run, other(run), **both)
    assert "on 2 GPUs in 60 of 110 passes, " in line
    assert line.endswith("; 1 GPU in the others: ControlNet; out of memory")


def test_what_is_otherwise_on_other_cards():
    run = run_of("dense step", MIXED, MIXED)
    dense = {"dense step": 4, "dense block": 2, why("OutOfMemoryError"): 5}
    failed = other(run, radial_calls=1, dense_calls=dense, failures=["OutOfMemoryError"])
    sdpa = other(run, backend="sdpa")
    eight_bit = other(run, precisions={"8 bit": 6}, backend="triton_int8")
    assert said(run, failed, sdpa, eight_bit, sdpa)[1:] == [
        "5 more dense calls (OutOfMemoryError: 5) on cuda:1",
        "radial calls are exact (sdpa) on cuda:2, cuda:4",
        "radial calls are 8 bit (triton_int8) on cuda:3",
    ]
    look = other(run, failures=["ValueError"])  # of a look: no call is dense for it
    assert said(run, look)[1:] == ["ValueError on cuda:1"]
    interrupted = other(run, dense_calls={"dense step": 4, "dense block": 3})
    assert said(run, interrupted)[1:] == []


def test_attention_of_all_cards():
    run = run_of("radial", "radial")
    text = pack_module("nodes.run.summary_text").report
    run["totals"]["gpus"] = found(other(run, attention_seconds=1.5))
    assert "Self-attention took 2 s on cuda:0, 1.5 s on cuda:1: 3.5 s in all." in text(run)
    run["totals"]["gpus"] = found(other(run), other(run, attention_seconds=None))
    assert "Self-attention took" not in text(run)
