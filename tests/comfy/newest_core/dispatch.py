"""How ComfyUI 0.38 sends an attention call on its way: containers, overrides, preferences."""

import functools

import torch


class AttentionTensorContainer:
    """A tensor with one owner: who takes it out may free it."""

    def __init__(self, tensor: torch.Tensor):
        self.tensor = tensor

    def peek(self) -> torch.Tensor:
        assert self.tensor is not None, "taken twice"
        return self.tensor

    def take(self) -> torch.Tensor:
        tensor, self.tensor = self.peek(), None
        return tensor


def wrap_attn(func):
    """The decorator of attention functions.

    An override gets tensors, unless it has a container_function: that gets the containers, and no
    function. What the checkpoint prefers counts only where no override is on the hook.
    """

    @functools.wraps(func)
    def wrapper(*args, **kwargs):
        preferred = kwargs.pop("preferred_attention", None)
        is_outermost = "_inside_attn_wrapper" not in kwargs
        kwargs["_inside_attn_wrapper"] = True
        override = (kwargs.get("transformer_options") or {}).get("optimized_attention_override")
        if is_outermost and override is not None:
            if not in_containers(args):
                return override(func, *args, **kwargs)
            if hasattr(override, "container_function"):
                return override.container_function(*args, **kwargs)
            return override(func, *taken(args), **kwargs)
        if is_outermost and preferred is not None and preferred.function is not None:
            return preferred.function(*args, **kwargs)
        if not in_containers(args):
            return func(*args, **kwargs)
        if wrapper.container_function is not None:
            return wrapper.container_function(*args, **kwargs)
        return func(*taken(args), **kwargs)

    wrapper.container_function = None
    return wrapper


def in_containers(args) -> bool:
    return isinstance(args[0], AttentionTensorContainer)


def taken(args) -> tuple:
    return (*(container.take() for container in args[:3]), *args[3:])


class ComfyAttention(torch.nn.Module):
    """A part of a model: the attention function that its checkpoint prefers there, or None."""

    def __init__(self, function=None):
        super().__init__()
        self.function = function
