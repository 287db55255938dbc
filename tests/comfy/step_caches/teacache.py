"""ComfyUI-TeaCache on Wan, from its nodes.py of July 2025.

Its model_function_wrapper puts a forward of its own in place of forward_orig for a pass. If the
embedded time has changed little since the last computed step, the tokens get what the blocks added
to them then. The prompts of a pass are skipped together; each has a state, kept on the model until
the next run's first step.

The pack of that date doesn't load in ComfyUI 0.16 and later: it imports a function of LTX that has
gone. Its form for HunyuanVideo also lacks some of forward_orig's arguments.
"""

from unittest.mock import patch

from .forwards import wan_forward


def teacache(model, threshold=0.3):
    model = model.clone()
    net = model.get_model_object("diffusion_model")

    def through_blocks(x, e, blocks, options):
        states = [net.teacache_state[kind] for kind in options["cond_or_uncond"]]
        parts = range(len(states))
        for state, now in zip(states, e.chunk(len(states)), strict=True):
            state["compute"] = has_changed(state, now, threshold)
        before = x
        if any(state["compute"] for state in states):
            x = blocks(x)
            for i, added in zip(parts, (x - before).chunk(len(states)), strict=True):
                states[i]["added"] = added
            return x
        chunks = x.chunk(len(states))
        for i in parts:
            chunks[i].add_(states[i]["added"])
        return x

    def wrapper(apply_model, given):
        options = given["c"]["transformer_options"]
        is_first = bool(options["sample_sigmas"][0] == given["timestep"][0])
        if not hasattr(net, "teacache_state") or (
            is_first and all("last" in state for state in net.teacache_state)
        ):
            net.teacache_state = {}, {}  # of the positive and of the negative prompt
        with patch.object(net, "forward_orig", wan_forward(net, through_blocks)):
            return apply_model(given["input"], given["timestep"], **given["c"])

    model.set_model_unet_function_wrapper(wrapper)
    return model


def has_changed(state: dict, now, threshold: float) -> bool:
    """Whether the changes since the last computed step add up to the threshold."""
    last, state["last"] = state.get("last"), now
    if last is None:
        return True
    state["sum"] = state.get("sum", 0) + ((now - last).abs().mean() / last.abs().mean()).item()
    if state["sum"] < threshold:
        return False
    state["sum"] = 0
    return True
