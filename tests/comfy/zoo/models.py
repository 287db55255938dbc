"""What models the cases of the zoo stand for, in the words of the support table."""

# Row of the table -> model -> the names of its cases. A case may stand for several.
MODELS = {
    "Wan 2.1": {
        "text to video": (
            "wan t2v, odd sizes, a pass a prompt",
            "wan t2v, two videos",
            "wan t2v with a reference it has no place for",
        ),
        "image to video": ("wan i2v",),
        "first and last frame": ("wan flf2v",),
        "Fun": ("wan fun control", "wan fun inpaint"),
        "VACE": ("wan vace with a reference", "wan vace, two contexts"),
        "Camera": ("wan camera",),
        "Phantom": ("wan phantom",),
        "Causal": ("wan causal, sampled as any other",),
    },
    "Wan 2.2": {
        "A14B text to video": ("wan t2v, odd sizes, a pass a prompt", "wan t2v, two videos"),
        "A14B image to video": ("wan 2.2 i2v a14b",),
        "5B": ("wan 2.2 ti2v 5b",),
        "S2V": ("wan s2v",),
        "Animate": ("wan animate",),
        "Fun": ("wan 2.2 fun control with a reference",),
        "Fun Camera": ("wan 2.2 camera",),
        "Bernini": ("bernini", "wan with every kind of reference"),
    },
    "Other Wan": {
        "HuMo": ("humo 1.7b", "humo 17b"),
        "SCAIL": ("scail", "scail, the pose in the first step"),
        "SCAIL 2": ("scail 2",),
        "WanDancer": ("wandancer",),
        "FlowRVS": ("flowrvs",),
    },
    "HunyuanVideo": {
        "text to video": (
            "hunyuan t2v",
            "hunyuan t2v with a negative prompt",
            "hunyuan padded prompt",
            "hunyuan padded prompts with holes",
        ),
        "image to video": (
            "hunyuan i2v concat",
            "hunyuan i2v replace",
            "hunyuan reference latent",
        ),
        "SkyReels": ("skyreels i2v",),
    },
    "HunyuanVideo 1.5": {
        "text to video": ("hunyuan 1.5 t2v",),
        "image to video": ("hunyuan 1.5 i2v",),
        "upscaler": ("hunyuan 1.5 super-resolution",),
    },
    "Mochi": {"text to video": ("mochi", "mochi, both prompts in one pass")},
    "Kandinsky 5": {
        "text to video": ("kandinsky 5 t2v, a pass a prompt",),
        "image to video": ("kandinsky 5 i2v",),
    },
    "Cosmos Predict2": {
        "text to video": (
            "cosmos predict2 t2v, a pass a prompt",
            "cosmos predict2, odd height",
        ),
        "image to video": ("cosmos predict2 i2v, two videos",),
    },
    "MiniMax H3": {
        "text to video": ("minimax h3 t2v, a pass a prompt",),
        "image to video": ("minimax h3 first frame",),
        "first and last frame": ("minimax h3 first and last frame",),
        "references, all with sound": ("minimax h3 references",),
    },
    "LTX-2": {
        "text and image to video": ("ltx-2 without sound", "ltx-2 i2v with sound"),
        "guides": ("ltx-2.3 guides with sound",),
    },
    "LTX-Video": {
        "text and image to video": (
            "ltx-video t2v, a pass a prompt",
            "ltx-video i2v, two videos",
            "ltx-video odd size",
        ),
        "guides": ("ltx-video guides", "ltx-video guide with gaps"),
    },
}
