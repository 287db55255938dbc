"""Forwards of packs that were written before ComfyUI's blocks took transformer_options.

Each is put in the place of a model's forward_orig for the time of a pass, and calls the blocks
without options. `through_blocks(x, signal, blocks)` is asked to take the tokens through them.
"""

from functools import partial

import torch
from comfy.ldm.flux.layers import timestep_embedding
from comfy.ldm.wan.model import sinusoidal_embedding_1d


def wan_forward(net, through_blocks, run=None):
    """run: takes the tokens through other blocks than the main ones too."""

    def main(x, **shared):
        for block in net.blocks:
            x = block(x, **shared)
        return x

    def forward_orig(x, t, context, clip_fea=None, freqs=None, transformer_options=None, **_named):
        x = net.patch_embedding(x.float()).to(x.dtype)
        grid = x.shape[2:]
        x = x.flatten(2).transpose(1, 2)
        e = net.time_embedding(sinusoidal_embedding_1d(net.freq_dim, t).to(x.dtype))
        e0 = net.time_projection(e).unflatten(1, (6, net.dim))
        context, image_tokens = net.text_embedding(context), None
        if clip_fea is not None:
            context = torch.cat([net.img_emb(clip_fea), context], 1)
            image_tokens = clip_fea.shape[-2]

        shared = {"e": e0, "freqs": freqs, "context": context, "context_img_len": image_tokens}
        x = through_blocks(x, e, partial(run or main, **shared), transformer_options)
        return net.unpatchify(net.head(x, e), grid)

    return forward_orig


def wan_vace_forward(net, through_blocks):
    """VACE's own blocks run beside the main ones, and their class hides what it takes."""

    def forward_orig(x, t, context, vace_context, vace_strength, freqs=None, **named):
        contexts = vace_context.movedim(0, 1).flatten(0, 1)
        contexts = net.vace_patch_embedding(contexts.float()).to(x.dtype).flatten(2).mT
        contexts = list(contexts.split(len(x)))

        def blocks(x, **shared):
            start = x
            for index, block in enumerate(net.blocks):
                x = block(x, **shared)
                beside = net.vace_layers_mapping.get(index)
                for i, given in enumerate(contexts if beside is not None else ()):
                    added, contexts[i] = net.vace_blocks[beside](given, x=start, **shared)
                    x = x + added * vace_strength[i]
            return x

        return wan_forward(net, through_blocks, blocks)(x, t, context, freqs=freqs, **named)

    return forward_orig


def hunyuan_video_15_forward(net, through_blocks):
    """Of HunyuanVideo 1.5 for text to video: double blocks, and a second text from ByT5."""

    def forward_orig(img, img_ids, txt, txt_ids, txt_mask, timesteps, y, txt_byt5, *_, **named):
        shape, options = img.shape, named["transformer_options"]
        img = net.img_in(img)
        vec = net.time_in(timestep_embedding(timesteps, 256, time_factor=1.0).to(img.dtype))
        txt = net.txt_in(txt, timesteps, txt_mask, transformer_options=options)
        texts = [txt] if txt_byt5 is None else [txt, net.byt5_in(txt_byt5)]
        kinds = net.cond_type_embedding.weight
        txt = torch.cat([each + kinds[kind] for kind, each in enumerate(texts)][::-1], 1)
        txt_ids = torch.zeros(*txt.shape[:2], 3)
        pe = net.pe_embedder(torch.cat([txt_ids, img_ids], 1))

        def blocks(img):
            words = txt
            for block in net.double_blocks:
                img, words = block(img=img, txt=words, vec=vec, pe=pe, attn_mask=None)
            return img

        img = net.final_layer(through_blocks(img, vec, blocks, options), vec)
        return img.transpose(1, 2).reshape(shape[0], net.out_channels, *shape[2:])

    return forward_orig


def with_an_older_forward(model, is_for=lambda step: True):
    """A model with another pack's forward in some steps, as step caches and NAG install one."""
    model, step = model.clone(), [0]
    net = model.get_model_object("diffusion_model")

    def wrapper(apply_model, given):
        step[0] += 1
        if is_for(step[0] - 1):
            net.forward_orig = wan_forward(net, lambda x, _e, blocks, _options: blocks(x))
        try:
            return apply_model(given["input"], given["timestep"], **given["c"])
        finally:
            vars(net).pop("forward_orig", None)

    model.set_model_unet_function_wrapper(wrapper)
    return model
