"""ComfyUI-MagCache on Wan, VACE and HunyuanVideo 1.5, from its nodes.py of November 2025.

It takes hold of the model as TeaCache does. It skips by a table for each model: how much shorter
what the blocks add gets from step to step. The steps of the first fifth always run.

The pack of that date doesn't load in ComfyUI 0.16 and later, for the same reason as TeaCache.
"""

from unittest.mock import patch

from .forwards import hunyuan_video_15_forward, wan_forward, wan_vace_forward

RATIO = 0.985  # a table of the same number for each step
FORWARDS = {
    "WanModel": wan_forward,
    "VaceWanModel": wan_vace_forward,
    "HunyuanVideo": hunyuan_video_15_forward,
}


def magcache(model, threshold=0.06, most_in_a_row=2, start=0.2):
    model = model.clone()
    net = model.get_model_object("diffusion_model")
    make_forward = FORWARDS[type(net).__name__]

    def through_blocks(x, _signal, blocks, options):
        states = [net.magcache_state[kind] for kind in options["cond_or_uncond"]]
        if options["may_skip"]:
            for state in states:
                state["skip"] = may_skip(state, threshold, most_in_a_row)
        if options["may_skip"] and any(state["skip"] for state in states):
            for part, state in zip(x.chunk(len(states)), states, strict=True):
                part.add_(state["added"])
            return x
        before, x = x.clone(), blocks(x)
        for state, added in zip(states, (x - before).chunk(len(states)), strict=True):
            state["added"] = added
        return x

    def wrapper(apply_model, given):
        options, sigma = given["c"]["transformer_options"], given["timestep"][0]
        step = int((options["sample_sigmas"] == sigma).nonzero()[0])
        if step == 0:
            kept = getattr(net, "magcache_state", {})
            net.magcache_state = kept | {kind: {} for kind in given["cond_or_uncond"]}
        options["may_skip"] = step >= int(start * (len(options["sample_sigmas"]) - 1))
        with patch.object(net, "forward_orig", make_forward(net, through_blocks)):
            return apply_model(given["input"], given["timestep"], **given["c"])

    model.set_model_unet_function_wrapper(wrapper)
    return model


def may_skip(state: dict, threshold: float, most_in_a_row: int) -> bool:
    ratio, error, steps = state.get("so far", (1, 0, 0))
    ratio, steps = ratio * RATIO, steps + 1
    error += abs(1 - ratio)
    if error <= threshold and steps <= most_in_a_row:
        state["so far"] = ratio, error, steps
        return True
    state.pop("so far", None)
    return False
