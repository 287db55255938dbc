"""What `launch` remembers about shapes."""

from radial_core.kernels import launch


class Kernel:
    """Like Triton's: the first call compiles and returns a launcher."""

    def __init__(self):
        self.compiled = self.launched = 0

    def __getitem__(self, grid):
        def first(*arguments, **options):
            self.compiled += 1
            return {grid: again}

        def again(*arguments):
            self.launched += 1

        return first


def test_a_shape_is_compiled_once_and_the_number_is_bounded(monkeypatch):
    monkeypatch.setattr(launch, "_compiled", {})
    kernel, grid = Kernel(), (1, 1, 1)
    for _ in range(3):
        launch.launch(("a shape",), kernel, grid, ())
    assert (kernel.compiled, kernel.launched) == (1, 2)
    for tokens in range(launch.SHAPES_KEPT + 5):
        launch.launch((tokens,), kernel, grid, ())
    assert len(launch._compiled) <= launch.SHAPES_KEPT
