"""First Block Cache of Comfy-WaveSpeed on HunyuanVideo, from its sources of August 2025.

Its model_function_wrapper puts one module in place of all double blocks, and an empty list in place
of the single ones, for a pass. The module runs the first block; if that adds much the same as in
the last computed step, the tokens get what the others added then, else it runs them. A step in
several passes is decided in the first. Wan has no list of blocks that the pack knows.

The pack is behind ComfyUI 0.16: its single blocks get the video before the text, which spoils the
video, and since the blocks change their input in place, it sees no change and never skips. The
stand-in does as the pack would if it kept up.
"""

import contextlib
from unittest.mock import patch

import torch


class CachedBlocks(torch.nn.Module):
    def __init__(self, double_blocks, single_blocks, threshold):
        super().__init__()
        self.double_blocks, self.single_blocks = double_blocks, single_blocks
        self.threshold = threshold
        self.kept, self.number, self.skips = [], 0, False  # by the passes of a step

    def forward(self, img, txt, **named):
        before = img.clone()
        img, txt = self.double_blocks[0](img, txt, **named)
        first = img - before
        if self.may_skip(first):
            _, added, added_text = self.kept[self.number]
            return img + added, txt + added_text
        start, start_text = img.clone(), txt.clone()
        for block in self.double_blocks[1:]:
            img, txt = block(img, txt, **named)
        named.pop("modulation_dims_img", None)
        named.pop("modulation_dims_txt", None)
        both = torch.cat([txt, img], 1)
        for block in self.single_blocks:
            both = block(both, **named)
        txt, img = both.split([txt.shape[1], img.shape[1]], 1)
        self.kept[self.number :] = [(first, img - start, txt - start_text)]
        return img, txt

    def may_skip(self, first) -> bool:
        if self.number >= len(self.kept) or self.kept[self.number][0].shape != first.shape:
            return False
        if self.number == 0:
            kept = self.kept[0][0]
            change = (first - kept).abs().mean() / kept.abs().mean()
            self.skips = change.item() < self.threshold
        return self.skips


def wavespeed(model, threshold=0.1):
    model = model.clone()
    net = model.get_model_object("diffusion_model")
    cached = CachedBlocks(net.double_blocks, net.single_blocks, threshold)
    in_their_place = {"double_blocks": [cached], "single_blocks": []}
    last = [None]  # the noise level of the pass before

    def wrapper(apply_model, given):
        sigma = given["timestep"][0].item()
        if last[0] is None or sigma > last[0]:
            cached.kept.clear()  # a new run
        cached.number = cached.number + 1 if sigma == last[0] and cached.kept else 0
        last[0] = sigma
        with contextlib.ExitStack() as stack:
            for name, blocks in in_their_place.items():
                stack.enter_context(patch.object(net, name, torch.nn.ModuleList(blocks)))
            return apply_model(given["input"], given["timestep"], **given["c"])

    model.set_model_unet_function_wrapper(wrapper)
    return model
