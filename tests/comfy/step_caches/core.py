"""ComfyUI's own nodes. EasyCache answers for the diffusion model, LazyCache for the guider."""

from comfy_extras.nodes_easycache import EasyCacheNode, LazyCacheNode


def easy_cache(model, reuse_threshold=3.0, start_percent=0.0):
    return EasyCacheNode.execute(model, reuse_threshold, start_percent, 1.0, False).args[0]


def lazy_cache(model, reuse_threshold=3.0, start_percent=0.0):
    return LazyCacheNode.execute(model, reuse_threshold, start_percent, 1.0, False).args[0]
