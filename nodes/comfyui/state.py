"""What ComfyUI is doing and was started with. False where a version keeps this elsewhere."""


def is_training() -> bool:
    """Whether one of ComfyUI's nodes is training a model."""
    try:
        import comfy.model_management
    except ImportError:
        return False
    return getattr(comfy.model_management, "in_training", False)


def has_option(*names: str) -> bool:
    """Whether any of these options is set on ComfyUI's command line."""
    try:
        from comfy.cli_args import args
    except ImportError:
        return False
    return any(getattr(args, name, False) for name in names)
