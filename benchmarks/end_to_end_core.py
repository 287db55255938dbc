"""ComfyUI's own sparse attention on the same calls: the kernel of its node Model Sparse Attention.

ComfyUI 0.30.0 has no such node yet, but comfy-kitchen has its kernel. It runs here with the node's
defaults of ComfyUI 0.38, at every step and block: tau 1.3, 256 extra tokens for each block. In
MiniMax H3 all tokens before the video are kept exactly, and the rows of the sound are dense. The
node also projects H3's q, k and v in parts, for less memory; that is not done here.
"""

import torch
from end_to_end_cases import Case

SLOT = "optimized_attention_override"
BLOCK, TAU, EXTRA_TOKENS = 64, 1.3, 256


class CoreSparse:
    """An override for ComfyUI's attention hook; `calls` counts those that it computed."""

    def __init__(self, case: Case):
        self.video = case.model.tokens(case.latent)
        self.sound = case.model.sound_tokens(case.latent)
        self.calls = 0

    def __call__(self, func, q, k, v, heads, mask=None, skip_reshape=False, **kwargs):
        if mask is not None or q.shape != k.shape or not self._has_video(q, skip_reshape):
            return func(q, k, v, heads, mask=mask, skip_reshape=skip_reshape, **kwargs)
        import comfy_kitchen

        if skip_reshape:
            q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        else:
            q, k, v = (x.unflatten(-1, (heads, -1)) for x in (q, k, v))
        sinks = self._sinks(q.shape[1]) if self.sound else {}
        out = comfy_kitchen.sol_attn(q, k, v, tau=TAU, token_aug=EXTRA_TOKENS, **sinks)
        self.calls += 1
        return out.transpose(1, 2) if kwargs.get("skip_output_reshape") else out.flatten(2)

    def _has_video(self, q: torch.Tensor, skip_reshape: bool) -> bool:
        return q.shape[2 if skip_reshape else 1] >= self.video

    def _sinks(self, tokens: int) -> dict[str, list[int]]:
        """Blocks that every query keeps, and blocks of queries that keep every key."""
        before = tokens - self.video
        end = -(-before // BLOCK)
        return {"sink_blocks": [0, end], "sink_q": [(before - self.sound) // BLOCK, end]}


def core_sparse(model, case: Case):
    """The MODEL with ComfyUI's sparse attention. Raises RuntimeError if it can't run here."""
    import comfy.model_management
    import comfy_kitchen

    device = comfy.model_management.get_torch_device()
    is_available = getattr(comfy_kitchen, "sol_attn_is_available", None)
    if is_available is None or not is_available(device):
        raise RuntimeError(f"comfy-kitchen has no sol_attn for {device}")
    model = model.clone()
    model.model_options["transformer_options"][SLOT] = CoreSparse(case)
    return model


def core_sparse_calls(model) -> int | None:
    """How many calls ran ComfyUI's sparse kernel; None for a MODEL without it."""
    override = model.model_options["transformer_options"].get(SLOT)
    return override.calls if isinstance(override, CoreSparse) else None
