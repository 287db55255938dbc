"""What pyproject.toml promises is what CI runs."""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "workflows"))

from headless.environment import OLDEST  # noqa: E402


def test_the_oldest_comfyui_is_the_one_that_is_required():
    text = (ROOT / "pyproject.toml").read_text()
    assert f'requires-comfyui = ">={OLDEST.version}"' in text
