"""A name that moved in ComfyUI only disables the feature that needs it, and the log says so."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import BLOCKS, ENVIRONMENT, PACK

pytestmark = pytest.mark.oldest

# What the patch itself needs: the model patcher, the attention hook and the V3 API.
NEEDED = ("comfy.patcher_extension", "comfy.ldm.modules.attention", "comfy_api.latest")
OURS = {  # a module of the pack -> the feature that is off without it
    "nodes.training.prepare": "training",
    "nodes.hook.compiled": "torch.compile support",
    "nodes.hook.compiled_op": "torch.compile support",
    "nodes.fused_blocks": "fused blocks",
    "nodes.probing": "node RadialAttentionProbe",
    "nodes.train_layers": "node RadialTrainLayers",
    "nodes.drawing": "node RadialAttentionReport",
}


def comfyui_names() -> list[str]:
    """The modules of ComfyUI that the pack imports, and the names that it imports from them."""
    found = {"comfy.patcher_extension:WrapperExecutor"}
    for file in [*(PACK / "nodes").rglob("*.py"), *(PACK / "radial_core").rglob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.update(f"{node.module}:{alias.name}" for alias in node.names)
                found.add(node.module)
    found = (name for name in found if name.split(".")[0].startswith("comfy"))
    more = ("comfy.ldm.wan.model:WanAttentionBlock", "comfy.ldm.flux.layers:SingleStreamBlock")
    return [*sorted(name for name in found if not name.startswith(NEEDED)), *more]


NAMES = [*comfyui_names(), *OURS]


@pytest.fixture(scope="module")
def without(stand_ins):
    """name -> the result without it."""
    model = stand_ins / "diffusion_models/wan2.1_t2v_1.3B_fp16.safetensors"
    script = Path(__file__).with_name("renamed.py")
    command = [sys.executable, "-P", script, ENVIRONMENT.comfyui, PACK, model, *NAMES]
    done = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ))
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"name"')]
    results = {result["name"]: result for result in map(json.loads, lines)}
    assert set(results) == set(NAMES), done.stderr[-3000:]
    return results


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("name", NAMES)
def test_the_patch_works_without_it(without, name):
    result = without[name]
    assert "error" not in result, result
    assert result["radial_calls"] == BLOCKS - 1, result
    feature = OURS.get(name)
    if feature is None:
        assert len(result["nodes"]) == 9
    else:
        assert "RadialAttentionPatch" in result["nodes"]
        assert sum(f"no {feature} with this version" in line for line in result["log"]) == (
            feature != "fused blocks"  # which is only loaded on a GPU
        )
        if feature in ("training", "torch.compile support"):
            assert f"no {feature} here" in result["status"]
