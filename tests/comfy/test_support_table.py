"""The tables of supported models in README and docs are those of the code."""

import pytest
import support_table
import zoo
from conftest import ENVIRONMENT, newest_only
from zoo.models import MODELS

pytestmark = pytest.mark.oldest


@newest_only("one version is enough")
@pytest.mark.parametrize("file", [support_table.README, support_table.PAGE], ids=lambda f: f.name)
def test_tables_are_current(file):
    current = file.read_text(encoding="utf-8")
    assert support_table.with_tables(file) == current, "run tests/comfy/support_table.py"


@newest_only("one version is enough")
def test_an_outdated_table_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("<!-- table: families -->\n| old |\n<!-- end -->", encoding="utf-8")
    new = support_table.with_tables(page)
    assert "old" not in new and "| Mochi | `AsymmDiTJoint` | 128 |" in new


def test_every_case_of_the_zoo_stands_for_a_model():
    listed = {name for models in MODELS.values() for names in models.values() for name in names}
    assert listed == {case.name for case in zoo.CASES}
    families = {support_table.family_of(row).name for row in MODELS}
    assert families == {family.name for family in support_table.registry.FAMILIES}


@pytest.mark.parametrize("case", zoo.CASES, ids=lambda case: case.name)
def test_what_a_version_has_is_read_from_its_source(case):
    assert support_table.is_in(ENVIRONMENT.comfyui, case) == case.is_there


@pytest.mark.parametrize(
    "file, row",
    [
        ("wan2.2_ti2v_5B_fp16.safetensors", "Wan 2.2"),
        ("hunyuan_video_t2v_720p_bf16.safetensors", "HunyuanVideo"),
        ("hunyuanvideo1.5_720p_t2v_fp16.safetensors", "HunyuanVideo 1.5"),
        ("minimax_h3_fp8.safetensors", "MiniMax H3"),
        ("ltx-2.3-22b-dev-fp8.safetensors", "LTX-2"),
        ("ltx-video-2b-v0.9.5.safetensors", "LTX-Video"),
        ("flux1-dev.safetensors", None),
    ],
)
def test_the_row_of_a_checkpoint(file, row):
    assert support_table.row_of_file(file) == row
