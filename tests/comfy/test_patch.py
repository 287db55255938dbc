"""The patch among other nodes: what runs radial, and what stays dense and says why."""

import comfy.model_management
import comfy.samplers
import pytest
import torch
from conftest import (
    BLOCKS,
    EVERYTHING,
    SLOT,
    ask_the_hook,
    difference,
    pack_module,
    patch,
    sample,
    with_lora,
    with_override,
    with_wrapper,
)

pytestmark = pytest.mark.oldest


def counting(calls):
    def override(func, q, k, v, heads, *args, **kwargs):
        calls.append((q.shape[1], k.shape[1]))
        return func(q, k, v, heads, *args, **kwargs)

    return override


@pytest.mark.parametrize("order", ["before ours", "after ours"])
def test_shares_the_hook_with_another_node(wan, order, summaries):
    calls = []
    if order == "before ours":
        model = patch(with_override(wan, counting(calls)))
    else:
        model = with_override(patch(wan), counting(calls))
    out = sample(model)
    assert difference(out, sample(patch(wan))) < 1e-6
    assert summaries[0]["radial_calls"] == summaries[1]["radial_calls"] > 0
    assert set(calls) == {(540, 20)}  # it got the cross-attention, all of it, and nothing else
    assert len(calls) == summaries[0]["dense_calls"]["cross-attention"]


def test_an_override_that_wraps_ours_during_the_pass(wan, summaries):
    calls = []

    def wrapper(executor, *args, **kwargs):
        options, ours = args[5], args[5][SLOT]
        count = counting(calls)
        options[SLOT] = lambda func, *a, **k: count(lambda *b, **j: ours(func, *b, **j), *a, **k)
        return executor(*args, **kwargs)

    plain = sample(patch(wan))
    assert difference(sample(with_wrapper(patch(wan), wrapper)), plain) < 1e-6
    assert set(calls) == {(540, 20), (540, 540)}
    assert summaries[0] == summaries[1]


def test_a_pass_within_a_pass(wan, summaries):
    """A wrapper runs the model again with the same options, which already have our hook."""

    def wrapper(executor, *args, **kwargs):
        if args[5].get("within"):
            return executor(*args, **kwargs)
        args[5]["within"] = True
        return executor.class_obj.apply_model(*args, **kwargs)

    plain = sample(patch(wan))
    assert difference(sample(with_wrapper(patch(wan), wrapper)), plain) < 1e-6
    assert summaries[1]["dense_calls"] == summaries[0]["dense_calls"]


def test_patched_twice_the_later_settings_count(wan, summaries):
    once = sample(patch(wan, decay=0.2))
    assert torch.equal(sample(patch(patch(wan, decay=4.0), decay=0.2)), once)
    assert summaries[0]["radial_calls"] == summaries[1]["radial_calls"]
    assert len(summaries) == 2


def test_does_not_change_its_input_model(wan):
    before = sample(wan)
    patched = patch(wan)
    assert difference(sample(patched), before) > 1e-3
    assert torch.equal(sample(wan), before)


def test_a_model_serves_many_prompts_and_sizes(wan, summaries):
    model = patch(wan)
    first = sample(model)
    sample(model, frames=5, height=20, width=24)
    sample(model, seed=2)
    assert torch.equal(sample(model), first)
    assert all(s["radial_calls"] == BLOCKS * s["model_calls"] for s in summaries)


def test_lora_before_and_after(wan, summaries, any_density):
    before, after = sample(patch(with_lora(wan))), sample(with_lora(patch(wan)))
    assert torch.equal(before, after)
    assert difference(before, sample(patch(wan))) > 1e-3
    assert difference(sample(patch(with_lora(wan), **EVERYTHING)), sample(with_lora(wan))) < 1e-4
    assert all(s["radial_calls"] == BLOCKS * s["model_calls"] for s in summaries)


def test_interrupted_then_run_again(wan, summaries):
    model = patch(wan)
    whole = sample(model, steps=3)

    def interrupt(*args):
        comfy.model_management.interrupt_current_processing(True)

    stopped = model.clone()
    stopped.set_model_unet_function_wrapper(
        lambda apply, p: (interrupt(), apply(p["input"], p["timestep"], **p["c"]))[1]
    )
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        sample(stopped, steps=3)
    comfy.model_management.interrupt_current_processing(False)
    assert len(summaries) == 2  # the stopped run reported too
    assert torch.equal(sample(model, steps=3), whole)
    assert summaries[2] == summaries[0]


def dense_forwards(wan, steps, **options):
    """(sigma, whether it was dense) for each forward pass of a run."""
    settings = {k: options.pop(k) for k in ("dense_steps", "dense_last_steps") if k in options}
    model = patch(wan, **settings)
    seen = []
    reporter = pack_module("nodes.hook.attach").override_of(model).reporter

    def watch(apply, p):
        key = float(p["timestep"][0])
        before = reporter.record.dense_calls["dense step"]
        out = apply(p["input"], p["timestep"], **p["c"])
        seen.append((key, reporter.record.dense_calls["dense step"] > before))
        return out

    model.set_model_unet_function_wrapper(watch)
    sample(model, steps=steps, cfg=1.0, **options)
    return seen


@pytest.mark.parametrize(
    "sampler", ["euler", "heun", "dpm_2", "uni_pc", "dpmpp_2m", "dpmpp_sde", "res_multistep", "lcm"]
)
def test_dense_steps_with_every_kind_of_sampler(wan, sampler, summaries):
    steps = 6
    seen = dense_forwards(wan, steps, sampler=sampler, dense_steps=2, dense_last_steps=1)
    sigmas = comfy.samplers.KSampler(wan, steps, wan.load_device, sampler, "simple").sigmas.tolist()
    for sigma, dense in seen:
        near = min(range(len(sigmas)), key=lambda i: abs(sigmas[i] - sigma))
        if abs(sigmas[near] - sigma) < 1e-4:  # at a step's own sigma
            step = min(near, steps - 1)
        else:
            step = next(i for i in range(steps) if sigmas[i] > sigma > sigmas[i + 1])
        assert dense == (step < 2 or step >= steps - 1), (sigma, step)
    assert {dense for _, dense in seen} == {True, False}


def test_dense_steps_of_a_sliced_schedule(wan, summaries):
    common = {"steps": 6, "dense_steps": 1, "dense_last_steps": 1}
    high = dense_forwards(wan, start_step=0, last_step=3, **common)
    low = dense_forwards(wan, start_step=3, last_step=6, force_full_denoise=True, **common)
    assert [dense for _, dense in high] == [True, False, False]  # not the schedule's last step
    assert [dense for _, dense in low] == [True, False, True]


def test_one_step(wan, summaries):
    assert dense_forwards(wan, steps=1, dense_steps=1)[0][1]
    assert not dense_forwards(wan, steps=1)[0][1]


def test_dense_blocks(wan, summaries):
    sample(patch(wan, dense_blocks=2))
    (summary,) = summaries
    assert summary["dense_calls"]["dense block"] == 2 * summary["model_calls"]
    assert summary["radial_calls"] == summary["model_calls"]


def reasons(summary):
    return {why for why in summary["dense_calls"] if why != "cross-attention"}


@pytest.mark.parametrize(
    "case, reason",
    [
        ({"frames": 1, "height": 64, "width": 64}, "single frame"),
        ({"frames": 2, "height": 48, "width": 48}, "100% of the blocks would be kept"),
        ({"text_tokens": 540}, "the video and its prompt both have 540 tokens"),
    ],
)
def test_stays_dense_and_says_why_once(wan, case, reason, summaries, caplog):
    caplog.set_level("INFO", "radial_attention")
    model = patch(wan)
    assert torch.equal(sample(model, **case), sample(wan, **case))
    sample(model, **case)
    assert summaries[0]["radial_calls"] == 0
    assert any(why.startswith(reason) for why in reasons(summaries[0]))
    logged = [r.getMessage() for r in caplog.records if "dense here" in r.getMessage()]
    assert sum(reason in line for line in logged) == 1


def test_eight_blocks_can_be_enough(wan, summaries):
    sample(patch(wan), frames=8, height=16, width=16)
    assert summaries[0]["radial_calls"] > 0


def test_a_masked_call_stays_dense(wan, summaries):
    q, mask = torch.randn(1, 540, 256), torch.rand(1, 540)

    def ask(ours, options):
        return ours(lambda *a, **k: k["mask"], q, q, q, 2, mask, transformer_options=options)

    assert ask_the_hook(wan, ask) is mask
    assert summaries[0]["dense_calls"]["attention mask"] == 1


@pytest.mark.parametrize("skip_reshape", [False, True])
@pytest.mark.parametrize("skip_output_reshape", [False, True])
def test_every_layout_of_a_call(wan, summaries, skip_reshape, skip_output_reshape):
    core = pack_module("radial_core")
    reference = pack_module("radial_core.reference")
    q, k, v = torch.randn(3, 2, 540, 2, 128).unbind(0)
    plan = core.make_plan(core.RadialPattern(0.2, 1, 64), core.VideoLayout(9, 6, 10))
    truth = reference.reference_attention(q, k, v, plan, 0.3).float()
    given = [x.transpose(1, 2) if skip_reshape else x.flatten(2) for x in (q, k, v)]
    layout = {"skip_reshape": skip_reshape, "skip_output_reshape": skip_output_reshape}

    out = ask_the_hook(
        wan,
        lambda ours, options: ours(
            None, *given, 2, **layout, scale=0.3, transformer_options=options
        ),
    )
    expected = truth.transpose(1, 2) if skip_output_reshape else truth.flatten(2)
    assert difference(out, expected) < 1e-5


def test_a_mask_that_masks_nothing(wan, summaries):
    q, mask = torch.randn(1, 540, 256), torch.zeros(1, 540)

    def ask(ours, options):
        return ours(None, q, q, q, 2, mask, transformer_options=options)

    assert ask_the_hook(wan, ask).shape == q.shape


def test_keys_with_other_heads_stay_dense(wan, summaries):
    q, k = torch.randn(1, 2, 540, 128), torch.randn(1, 1, 540, 128)

    def ask(ours, options):
        return ours(
            lambda *a, **k: "dense", q, k, k, 2, skip_reshape=True, transformer_options=options
        )

    assert ask_the_hook(wan, ask) == "dense"
    assert summaries[0]["dense_calls"]["keys have other heads than queries"] == 1


def test_in_comfyuis_lora_training_every_call_is_radial(wan, summaries, monkeypatch):
    """Its sampler has image numbers in place of the schedule."""
    from comfy_extras import nodes_train

    latents = torch.randn(3, 16, 9, 12, 20)
    sampler = nodes_train.TrainSampler(
        torch.nn.functional.mse_loss,
        torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1),
        batch_size=2,
        total_steps=2,
        training_dtype=torch.float32,
    )
    guider = nodes_train.TrainGuider(patch(wan, dense_steps=5, dense_last_steps=1, dense_blocks=1))
    guider.set_conds([[torch.randn(1, 20, 16), {}] for _ in latents])
    monkeypatch.setattr(comfy.model_management, "in_training", True)
    with torch.inference_mode(False), torch.enable_grad():
        guider.sample(torch.randn_like(latents), latents, sampler, torch.arange(3), seed=1)
    (summary,) = summaries
    assert summary["radial_calls"] == 2 * summary["model_calls"] > 0
    assert reasons(summary) == {"dense block"}


COSMOS_1 = {
    "image_model": "cosmos",
    "max_img_h": 240,
    "max_img_w": 240,
    "max_frames": 128,
    "in_channels": 16,
    "out_channels": 16,
    "patch_spatial": 2,
    "patch_temporal": 1,
    "model_channels": 96,
    "num_blocks": 1,
    "num_heads": 2,
    "crossattn_emb_channels": 16,
    "block_x_format": "THWBD",
    "pos_emb_cls": "rope3d",
    "extra_per_block_abs_pos_emb": True,
    "extra_per_block_abs_pos_emb_type": "learnable",
}


def test_an_unknown_model_runs_unchanged(summaries):
    """Cosmos 1, which this pack does not support."""
    import comfy.supported_models
    from comfy.model_patcher import ModelPatcher
    from zoo.case import weights_of

    import nodes

    config = comfy.supported_models.CosmosT2V(dict(COSMOS_1))
    config.set_inference_dtype(torch.float32, None)
    base = config.get_model({})
    base.diffusion_model.load_state_dict(weights_of(base.diffusion_model))
    cpu = torch.device("cpu")
    model = ModelPatcher(base, cpu, cpu)

    def run(model):
        generator = torch.Generator().manual_seed(7)
        cond = [[torch.randn(1, 20, 16, generator=generator), {}]]
        latent = {"samples": torch.zeros(1, 16, 5, 6, 8)}
        return nodes.common_ksampler(model, 1, 2, 1.0, "euler", "simple", cond, cond, latent)[0][
            "samples"
        ]

    assert torch.equal(run(patch(model)), run(model))
    assert summaries[0]["radial_calls"] == 0
    (reason,) = reasons(summaries[0])
    assert "GeneralDIT is not a model this pack knows" in reason


def test_a_failing_kernel_does_not_spoil_the_render(wan, summaries, monkeypatch, caplog):
    asked = []

    class Broken:
        why_not = staticmethod(lambda *args: None)

        @staticmethod
        def run(*args):
            asked.append(args)
            raise RuntimeError(f"no nvcc, {len(asked)} times")

    attention = pack_module("radial_core.attention")
    monkeypatch.setattr(attention, "backend_module", lambda name: Broken)
    for name, empty in (("_reasons", {}), ("_logged", set())):
        monkeypatch.setattr(pack_module("radial_core.failures"), name, empty)
    assert torch.equal(sample(patch(wan)), sample(wan))
    assert summaries[0]["radial_calls"] == 0
    (reason,) = reasons(summaries[0])
    assert summaries[0]["dense_calls"][reason] == BLOCKS * summaries[0]["model_calls"]
    assert len(asked) == 1  # not asked again in the same run
    warned = [r for r in caplog.records if r.levelname == "WARNING"]
    assert len(warned) == 2  # the backend and the node, once each
    assert "RuntimeError: no nvcc" in warned[0].getMessage()


def test_a_plan_that_cannot_be_made_does_not_spoil_the_render(wan, summaries, monkeypatch):
    def out_of_memory(*args):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(pack_module("nodes.hook.decision"), "make_plan", out_of_memory)
    assert torch.equal(sample(patch(wan)), sample(wan))
    assert summaries[0]["dense_calls"]["OutOfMemoryError"] > 0


def test_options_it_cannot_read_do_not_spoil_the_render(wan, summaries):
    def wrapper(executor, *args, **kwargs):
        args[5]["sample_sigmas"] = "not a tensor"
        return executor(*args, **kwargs)

    model = wan.clone()
    model.add_wrapper_with_key("apply_model", "test", wrapper)  # added before ours: runs outside it
    assert torch.equal(sample(patch(model)), sample(wan))


def test_a_closed_page_does_not_spoil_the_video(wan, monkeypatch, caplog):
    def closed(event, data):
        raise RuntimeError("Event loop is closed")

    model = patch(wan)
    whole = sample(model)
    monkeypatch.setattr(pack_module("nodes.run.run_reporter"), "_send", closed)
    assert torch.equal(sample(model), whole)
    assert "no summary of this run" in caplog.text


def test_a_named_backend_that_cannot_run_is_refused_before_sampling(wan, monkeypatch):
    sdpa = pack_module("radial_core.backends.sdpa")
    monkeypatch.setattr(sdpa, "why_not", lambda *args: "install this and that")
    with pytest.raises(ValueError, match="install this and that"):
        patch(wan, backend="sdpa")
    patch(wan, backend="auto")  # can still use another backend


@pytest.mark.parametrize(
    "settings, message",
    [
        (
            {"dense_steps": -2},
            "dense_steps must be a whole number from 0 up, or -1 for .*, got -2",
        ),
        ({"dense_last_steps": -2}, "dense_last_steps must be"),
        ({"dense_blocks": -3}, "dense_blocks must be"),
        ({"sink_frames": -2}, "sink_frames must be"),
        ({"decay": 4.1}, "decay must be in"),
        ({"decay": -0.5}, r"decay must be in \(0, 4\], or 0 for .*, got -0.5"),
        ({"decay": float("nan")}, "decay must be in"),
        ({"block_size": 100}, "block_size must be 64 or 128, got 100"),
        ({"dense_attention": "magic"}, "dense_attention must be one of auto, comfyui, fastest"),
        ({"backend": "magic"}, "backend must be one of auto, "),
        ({"precision": "16 bit"}, "precision must be one of auto, exact, 8 bit, got '16 bit'"),
    ],
)
def test_impossible_settings_are_refused(wan, settings, message):
    with pytest.raises(ValueError, match=message):
        patch(wan, **settings)


def test_an_input_that_is_no_model_is_refused():
    with pytest.raises(ValueError, match="model must come from a model loader, got 'wan'"):
        patch("wan")
