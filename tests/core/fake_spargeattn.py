"""SpargeAttn's block_sparse_sage2_attn_cuda in plain torch: what it asks of its arguments, which
keys it keeps, and what it rounds.

Read from the code of woct0rdho/SpargeAttn at 067d80c (core.py, utils.py, csrc); thu-ml/SpargeAttn
at bfd980b, and sparsevideo 0.1.0, have the same kernels.
"""

from dataclasses import dataclass, field

import torch
from einops import rearrange

UNWRITTEN = float("nan")  # the output is allocated and not cleared
FP8 = torch.float8_e4m3fn
FP8_LARGEST = 448.0


@dataclass(frozen=True)
class Gpu:
    """How the kernel for one kind of GPU works.

    capability: of the GPU. blocks: of queries and keys. weights_and_values: FP8 or float16.
    largest_value: what each channel of v is scaled to. keys_at_once: of which products are added up
    in float16; 0 where that is done in float32.
    """

    capability: tuple[int, int]
    blocks: tuple[int, int] = (128, 64)
    weights_and_values: torch.dtype = FP8
    largest_value: float = 2.25
    keys_at_once: int = 32


GPUS = {
    "RTX 30": Gpu((8, 6), weights_and_values=torch.float16, keys_at_once=16),
    "RTX 40": Gpu((8, 9)),
    "RTX 40, CUDA 12.4": Gpu((8, 9), largest_value=448.0, keys_at_once=0),
    "Hopper": Gpu((9, 0), (64, 128), largest_value=448.0, keys_at_once=0),
    "Hopper, upstream": Gpu((9, 0), (64, 128), keys_at_once=0),
    "RTX 50": Gpu((12, 0)),
}


@dataclass
class SpargeAttn:
    """The module spas_sage_attn on a GPU. calls: the keyword arguments of each call."""

    gpu: Gpu
    calls: list[dict] = field(default_factory=list)

    def block_sparse_sage2_attn_cuda(
        self,
        q,
        k,
        v,
        mask_id=None,
        dropout_p=0.0,
        scale=None,
        smooth_k=True,
        pvthreshd=50,
        attention_sink=False,
        tensor_layout="HND",
        output_dtype=torch.float16,
        return_sparsity=False,
    ):
        self.calls.append({"mask_id": mask_id, "pvthreshd": pvthreshd, "shape": tuple(q.shape)})
        assert tensor_layout in ["HND", "NHD"]
        if tensor_layout == "NHD":
            q, k, v = (rearrange(x, "... L H D -> ... H L D") for x in (q, k, v))
        assert q.size(-2) >= 128, "seq_len should be not less than 128."
        half = torch.bfloat16 if q.dtype == torch.bfloat16 else torch.float16
        q, k, v = q.contiguous().to(half), k.contiguous().to(half), v.contiguous().half()
        if not smooth_k:
            raise UnboundLocalError("km")
        k = k - k.mean(dim=-2, keepdim=True)
        head_dim = q.size(-1)
        scale = head_dim**-0.5 if scale is None else scale
        assert head_dim in [64, 128]
        query_block, key_block = self.gpu.blocks
        assert mask_id.dim() == 4 and mask_id.is_contiguous()
        # The real one reads past the end of a smaller mask.
        blocks = (-(-q.size(-2) // query_block), -(-k.size(-2) // key_block))
        assert mask_id.shape == (*q.shape[:2], *blocks)
        q, k = in_8_bits(q.float(), query_block), in_8_bits(k.float(), key_block)
        kept = mask_id.bool().repeat_interleave(query_block, 2).repeat_interleave(key_block, 3)
        kept = kept[:, :, : q.size(-2), : k.size(-2)]
        scores = (q @ k.transpose(2, 3) * scale).masked_fill(~kept, -torch.inf)
        out = attention_on(self.gpu, scores, v.float())
        out[~kept.any(-1)] = UNWRITTEN
        out = out.to(half)
        return rearrange(out, "... H L D -> ... L H D") if tensor_layout == "NHD" else out


def in_8_bits(x: torch.Tensor, block: int) -> torch.Tensor:
    """x (b, h, s, d) with one scale for each block of tokens."""
    parts = []
    for part in x.split(block, dim=2):
        step = part.abs().amax(dim=(2, 3), keepdim=True) / 127 + 1e-7
        code = part / step
        parts.append((code + 0.5 * torch.where(code >= 0, 1, -1)).trunc() * step)
    return torch.cat(parts, dim=2)


def attention_on(gpu: Gpu, scores: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Softmax and the second product as a GPU's kernel rounds them, float32 (b, h, s, d)."""
    top = scores.amax(dim=-1, keepdim=True)
    weights = (scores - top).exp()
    total = weights.sum(dim=-1, keepdim=True)
    value_scale = torch.ones(1)
    if gpu.weights_and_values is FP8:
        largest = v.abs().amax(dim=2, keepdim=True)
        value_scale = largest / gpu.largest_value
        v = v * (gpu.largest_value / largest)  # 0 * inf in a channel of zeros
        weights, total = weights * FP8_LARGEST, total * FP8_LARGEST
    weights, v = (x.to(gpu.weights_and_values).float() for x in (weights, v))
    if not gpu.keys_at_once:
        return weights @ v / total * value_scale
    out = 0
    for keys in torch.arange(v.size(2)).split(gpu.keys_at_once):
        out = out + (weights[..., keys] @ v[:, :, keys]).half().float()
    return out / total * value_scale
