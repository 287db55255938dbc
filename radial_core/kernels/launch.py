"""Launches a kernel, from the second time on without Triton's own dispatch (some 50 us)."""

_compiled: dict[tuple, object] = {}


def launch(key: tuple, kernel, grid: tuple[int, int, int], arguments: tuple, **options):
    """kernel[grid](*arguments, **options).

    key: all that Triton compiles for: whole numbers, types and alignment of the tensors, constants,
    options and device. The same key always launches the same binary.
    """
    key = (kernel, *key)
    ready = _compiled.get(key)
    if ready is None:
        _compiled[key] = kernel[grid](*arguments, **options)
    else:
        ready[grid](*arguments)
