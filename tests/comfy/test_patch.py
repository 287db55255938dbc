"""The node among other nodes: what goes radial, what stays dense and says so."""

import importlib

import comfy.model_management
import comfy.samplers
import pytest
import torch
from comfy_api.torch_helpers import set_torch_compile_wrapper
from conftest import difference, patch, patch_module, sample

SLOT = "optimized_attention_override"
BLOCKS = 3


def with_override(model, override):
    model = model.clone()
    model.model_options["transformer_options"][SLOT] = override
    return model


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


def test_an_override_that_wraps_what_it_finds_still_runs_once(wan, summaries):
    """A later node that chains: ours goes in front of the chain, not into it twice."""
    patched = patch(wan)
    before = patched.model_options["transformer_options"].get(SLOT)
    calls = []
    count = counting(calls)

    def chaining(func, *args, **kwargs):
        count(lambda *a, **k: None, *args, **kwargs)
        return before(func, *args, **kwargs) if before else func(*args, **kwargs)

    assert difference(sample(with_override(patched, chaining)), sample(patched)) < 1e-6
    assert set(calls) == {(540, 20)}


def test_patched_twice_the_later_settings_count(wan, summaries):
    once = sample(patch(wan, decay=0.2))
    assert torch.equal(sample(patch(patch(wan, decay=4.0), decay=0.2)), once)
    assert summaries[0]["radial_calls"] == summaries[1]["radial_calls"]
    assert len(summaries) == 2


def test_leaves_the_model_it_was_given_alone(wan):
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


def test_lora_before_and_after(wan, summaries):
    import comfy.sd

    generator = torch.Generator().manual_seed(3)
    lora = {}
    for block in range(BLOCKS):
        for name in "qkvo":
            key = f"diffusion_model.blocks.{block}.self_attn.{name}"
            lora[f"{key}.lora_A.weight"] = torch.randn(8, 256, generator=generator) / 16
            lora[f"{key}.lora_B.weight"] = torch.randn(256, 8, generator=generator) / 3

    def with_lora(model):
        return comfy.sd.load_lora_for_models(model, None, lora, 1.0, 0)[0]

    before, after = sample(patch(with_lora(wan))), sample(with_lora(patch(wan)))
    assert torch.equal(before, after)
    assert difference(before, sample(patch(wan))) > 1e-3
    everything = {"sink_frames": 100, "decay": 4.0}
    assert difference(sample(patch(with_lora(wan), **everything)), sample(with_lora(wan))) < 1e-4
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


def dense_forwards(wan, summaries, steps, **options):
    """Which forward passes of a run were dense, by asking the hook at each one."""
    settings = {k: options.pop(k) for k in ("dense_steps", "dense_last_steps") if k in options}
    model = patch(wan, **settings)
    seen = []
    override = importlib.import_module(patch_module().RadialOverride.__module__)

    def watch(apply, p):
        key = float(p["timestep"][0])
        before = model_tally.dense_calls["dense step"]
        out = apply(p["input"], p["timestep"], **p["c"])
        seen.append((key, model_tally.dense_calls["dense step"] > before))
        return out

    (wrapper,) = model.get_wrappers("apply_model", override.KEY)
    model_tally = wrapper.__self__.tally
    model.set_model_unet_function_wrapper(watch)
    sample(model, steps=steps, cfg=1.0, **options)
    return seen


@pytest.mark.parametrize(
    "sampler", ["euler", "heun", "dpm_2", "uni_pc", "dpmpp_2m", "dpmpp_sde", "res_multistep", "lcm"]
)
def test_dense_steps_under_every_kind_of_sampler(wan, sampler, summaries):
    steps = 6
    seen = dense_forwards(wan, summaries, steps, sampler=sampler, dense_steps=2, dense_last_steps=1)
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
    high = dense_forwards(wan, summaries, start_step=0, last_step=3, **common)
    low = dense_forwards(
        wan, summaries, start_step=3, last_step=6, force_full_denoise=True, **common
    )
    assert [dense for _, dense in high] == [True, False, False]  # hands over: no last step
    assert [dense for _, dense in low] == [True, False, True]


def test_one_step(wan, summaries):
    assert dense_forwards(wan, summaries, steps=1, dense_steps=1)[0][1]
    assert not dense_forwards(wan, summaries, steps=1)[0][1]


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
        ({"frames": 5, "height": 8, "width": 8}, "only 80 tokens"),
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
    said = [r.getMessage() for r in caplog.records if "dense here" in r.getMessage()]
    assert sum(reason in line for line in said) == 1


def test_a_masked_call_stays_dense(wan, summaries):
    """No Wan call has a mask today; ask the hook itself, in the middle of a real forward pass."""
    asked = []

    def override(func, q, k, v, heads, mask=None, **kwargs):
        if not asked and k.shape[1] == 20:
            options = kwargs["transformer_options"]
            mask_of_ours = torch.zeros(1, 540)
            q = torch.randn(q.shape[0], 540, 256)
            ours = options[SLOT]
            asked.append(ours(lambda *a, **k: k["mask"], q, q, q, heads, mask_of_ours, **kwargs))
            assert asked[0] is mask_of_ours
        return func(q, k, v, heads, mask=mask, **kwargs)

    sample(patch(with_override(wan, override)))
    assert asked and summaries[0]["dense_calls"]["attention mask"] == 1


def test_another_model_runs_as_before(summaries):
    """HunyuanVideo, until this pack knows it."""
    import comfy.ldm.hunyuan_video.model as hunyuan
    import comfy.sd
    from headless.standins import _operations, _randomised

    net = hunyuan.HunyuanVideo(
        image_model="hunyuan_video",
        in_channels=16,
        out_channels=16,
        patch_size=[1, 2, 2],
        context_in_dim=4096,
        vec_in_dim=768,
        hidden_size=128,
        mlp_ratio=4.0,
        num_heads=1,
        depth=1,
        depth_single_blocks=1,
        axes_dim=[16, 56, 56],
        theta=256,
        qkv_bias=True,
        guidance_embed=True,
        byt5=False,
        meanflow=False,
        meanflow_sum=False,
        use_cond_type_embedding=False,
        vision_in_dim=None,
        **_operations(),
    )
    model = comfy.sd.load_diffusion_model_state_dict(_randomised(net))

    def run(model):
        import nodes

        generator = torch.Generator().manual_seed(7)
        cond = [
            [torch.randn(1, 20, 4096, generator=generator), {"pooled_output": torch.ones(1, 768)}]
        ]
        latent = {"samples": torch.zeros(1, 16, 9, 12, 20)}
        return nodes.common_ksampler(model, 1, 2, 1.0, "euler", "simple", cond, cond, latent)[0][
            "samples"
        ]

    assert torch.equal(run(patch(model)), run(model))
    assert summaries[0]["radial_calls"] == 0
    (reason,) = reasons(summaries[0])
    assert "HunyuanVideo is not a model this pack knows" in reason


def test_a_failing_kernel_does_not_spoil_the_render(wan, summaries, monkeypatch, caplog):
    core = importlib.import_module(
        patch_module().__name__.rsplit(".nodes.", 1)[0] + ".radial_core.attention"
    )

    class Broken:
        why_not = staticmethod(lambda *args: None)

        @staticmethod
        def run(*args):
            raise RuntimeError("no nvcc")

    monkeypatch.setattr(core, "_module", lambda name: Broken)
    assert torch.equal(sample(patch(wan)), sample(wan))
    assert summaries[0]["radial_calls"] == 0
    warned = [r for r in caplog.records if "RuntimeError: no nvcc" in r.getMessage()]
    assert len(warned) == 1 and warned[0].levelname == "WARNING"


def test_under_torch_compile(wan, summaries):
    """Whatever is compiled, each step decides anew whether it is dense."""
    settings = {"dense_steps": 1, "dense_blocks": 1}
    model = patch(wan, **settings)
    set_torch_compile_wrapper(
        model,
        "eager",
        options={"guard_filter_fn": lambda g: ["transformer_options" not in e.name for e in g]},
    )
    assert difference(sample(model), sample(patch(wan, **settings))) < 1e-5
    compiled, plain = summaries
    assert compiled == plain


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"dense_steps": -1}, "dense_steps must be a whole number from 0 up, got -1"),
        ({"dense_last_steps": -2}, "dense_last_steps must be"),
        ({"dense_blocks": -3}, "dense_blocks must be"),
        ({"sink_frames": -1}, "sink_frames must be"),
        ({"decay": 0}, "decay must be in"),
        ({"decay": -0.5}, "decay must be in"),
        ({"decay": float("nan")}, "decay must be in"),
        ({"block_size": 100}, "block_size must be 64 or 128, got 100"),
        ({"backend": "magic"}, "backend must be one of auto, sdpa"),
    ],
)
def test_refuses_impossible_settings(wan, settings, message):
    with pytest.raises(ValueError, match=message):
        patch(wan, **settings)


def test_refuses_what_is_not_a_model():
    with pytest.raises(ValueError, match="model must come from a model loader, got 'wan'"):
        patch("wan")
