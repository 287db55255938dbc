"""ComfyUI's context windows, of 5 latent frames."""

from comfy_extras.nodes_context_windows import ContextWindowsManualNode
from conftest import NEWEST, VERSION


def context_windows(model, schedule="standard_static"):
    """A MODEL that runs in windows which overlap by 2 frames."""
    settings = {
        "context_length": 5,
        "context_overlap": 2,
        "context_schedule": schedule,
        "context_stride": 1,
        "closed_loop": False,
        "fuse_method": "pyramid",
        "freenoise": False,
        "dim": 2,
    }
    if VERSION == NEWEST.version:
        settings["causal_window_fix"] = False
    return ContextWindowsManualNode.execute(model, **settings).args[0]
