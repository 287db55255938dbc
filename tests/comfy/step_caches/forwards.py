"""Forwards of packs that were written before ComfyUI's blocks took transformer_options.

Each is put in the place of a model's forward_orig for the time of a pass, and calls the blocks
without options. `through_blocks(x, signal, blocks)` is asked to take the tokens through them.
"""

import torch
from comfy.ldm.flux.layers import timestep_embedding
from comfy.ldm.wan.model import sinusoidal_embedding_1d


def wan_forward(net, through_blocks):
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

        def blocks(x):
            for block in net.blocks:
                x = block(x, e=e0, freqs=freqs, context=context, context_img_len=image_tokens)
            return x

        x = through_blocks(x, e, blocks, transformer_options)
        return net.unpatchify(net.head(x, e), grid)

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
