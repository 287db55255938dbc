"""Stub: the lead's engine takes its place. Keeps what was asked for."""


def attach(model, gpus: int, node: str | None) -> None:
    """In place. gpus: 0 for all. node: the id of the node in the graph."""
    model.set_attachments("radial_multi_gpu", (gpus, node))
