"""SageAttention 2 in plain torch: what its dense functions ask of their arguments, and what they
round. Read from the code of thu-ml/SageAttention at v2.2.0 and d1a57a5 (core.py, quant.py, csrc).
"""

from dataclasses import dataclass, field

import torch
from fake_spargeattn import GPUS, Gpu, attention_on, in_8_bits


@dataclass
class SageAttention:
    """The module sageattention on a GPU.

    calls: the function and q's shape of each call. steps: from token to token, of q, k and v, in
    the last one.
    """

    gpu: Gpu
    calls: list[tuple] = field(default_factory=list)
    steps: tuple[int, ...] = ()

    def sageattn(
        self, q, k, v, tensor_layout="HND", is_causal=False, sm_scale=None, return_lse=False
    ):
        """The library's choice for the GPU."""
        self.calls.append(("sageattn", tuple(q.shape)))
        return self._attend(self.gpu, q, k, v, tensor_layout, sm_scale)

    def sageattn_qk_int8_pv_fp16_cuda(
        self,
        q,
        k,
        v,
        tensor_layout="HND",
        is_causal=False,
        qk_quant_gran="per_thread",
        sm_scale=None,
        pv_accum_dtype="fp32",
        smooth_k=True,
        smooth_v=False,
        return_lse=False,
    ):
        assert pv_accum_dtype == "fp16+fp32" and smooth_k and not smooth_v
        self.calls.append(("fp16", tuple(q.shape)))
        return self._attend(GPUS["RTX 30"], q, k, v, tensor_layout, sm_scale)

    def _attend(self, gpu, q, k, v, tensor_layout, sm_scale):
        assert tensor_layout == "NHD"
        self.steps = tuple(x.stride(1) for x in (q, k, v))
        dtype, head_dim = q.dtype, q.size(-1)
        assert dtype in (torch.float16, torch.bfloat16)
        assert q.dtype == k.dtype == v.dtype
        if head_dim > 128:
            raise ValueError(f"Unsupported head_dim: {head_dim}")
        width = 64 if head_dim <= 64 else 128
        q, k, v = (torch.nn.functional.pad(x, (0, width - head_dim)) for x in (q, k, v))
        assert q.stride(-1) == k.stride(-1) == v.stride(-1) == 1
        q, k, v = (x.transpose(1, 2).float() for x in (q, k, v))
        if gpu.weights_and_values is torch.float16:
            v = v.half().float()
        query_block, key_block = gpu.blocks
        k = k - k.mean(dim=2, keepdim=True)
        # The real one has a scale for every few tokens of a block.
        scores = in_8_bits(q, query_block // 4) @ in_8_bits(k, key_block // 4).transpose(2, 3)
        scores *= head_dim**-0.5 if sm_scale is None else sm_scale
        out = attention_on(gpu, scores, v)[..., :head_dim]
        return out.transpose(1, 2).to(dtype)
