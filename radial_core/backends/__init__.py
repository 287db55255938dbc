"""One kernel library a file, imported when first used.

A backend gets tensors and a plan, and knows nothing of patterns. Each file has

    why_not(device, dtype, head_dim, block_size) -> str | None
        Why it can't take such a call, for a person to read; None if it can.
    run(q, k, v, plan, softmax_scale) -> out
        Exact attention over the kept blocks. q, k, v, out: (b, s, h, d), any strides.
"""
