"""A sentencepiece model of letters, which text encoders without a tokenizer in ComfyUI hold."""

import io

import torch
from sentencepiece import SentencePieceTrainer


def letters(**ids: int) -> torch.Tensor:
    """Falls back to bytes, so it accepts any text. ids: pad_id, eos_id, bos_id, unk_id."""
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(["abcdefghijklmnopqrstuvwxyz ,."] * 8),
        model_writer=model,
        vocab_size=300,
        model_type="char",
        byte_fallback=True,
        hard_vocab_limit=False,
        minloglevel=2,
        **ids,
    )
    return torch.frombuffer(bytearray(model.getvalue()), dtype=torch.uint8)
