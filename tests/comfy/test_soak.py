"""Two hundred prompts with changing sizes and settings, some cancelled and some failing.

Memory, threads, open files and our own objects must not grow.
"""

import random
import statistics
import time
from pathlib import Path

import psutil
import pytest
from api import Outcome, ask, get, post, queue, wait
from conftest import newest_only
from headless.server import standin_server
from whole_graph import OURS, SAMPLER, around, whole_graph

pytestmark = [newest_only("once is enough"), pytest.mark.slow]

PROMPTS = 200
MOST_GROWTH = 12 * 2**20  # bytes, between medians, which usually stay within 1 MiB
SIZES = [(64, 64, 17), (64, 96, 33), (96, 96, 21), (128, 64, 33), (64, 128, 49), (112, 80, 25)]
COUNTING = """
import gc
import threading
from collections import Counter

import torch
from aiohttp import web
from server import PromptServer

NODE_CLASS_MAPPINGS = {}


@PromptServer.instance.routes.get("/counts")
async def counts(request):
    gc.collect()
    alive = gc.get_objects()
    kinds = [type(each) for each in alive]
    ours = Counter(kind.__name__ for kind in kinds if "radial-attention" in str(kind.__module__))
    tensors = sum(issubclass(kind, torch.Tensor) for kind in kinds)
    threads = len(threading.enumerate())
    return web.json_response({"ours": ours, "tensors": tensors, "threads": threads})
"""


@pytest.fixture
def server(environment, stand_ins, tmp_path, monkeypatch):
    """A server with a second pack that counts the objects in the server."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # the models are so small that two are slower
    (tmp_path / "counting").mkdir()
    (tmp_path / "counting/__init__.py").write_text(COUNTING)
    paths = tmp_path / "paths.yaml"
    paths.write_text(f'{{"counting": {{"custom_nodes": "{tmp_path}"}}}}')
    options = ["--extra-model-paths-config", paths]
    with standin_server(environment, stand_ins, options) as server:
        yield server


def prompts():
    """(fate, graph): seven of ten graphs run undisturbed."""
    random_ = random.Random(7)
    for i in range(PROMPTS):
        graph = whole_graph()
        if i % 2:  # half of them have only what the sampler needs
            graph = around(graph, SAMPLER)
        width, height, length = random_.choice(SIZES)
        graph["8"]["inputs"] |= {"width": width, "height": height, "length": length}
        graph[SAMPLER]["inputs"] |= {"seed": i, "steps": random_.choice([1, 2])}
        graph[SAMPLER]["inputs"]["sampler_name"] = random_.choice(["euler", "uni_pc"])
        graph["4"]["inputs"] |= {
            "dense_steps": random_.choice([-1, 0, 1]),
            "dense_blocks": random_.choice([-1, 0, 2]),
            "sink_frames": random_.choice([-1, 0, 3]),
            "decay": random_.choice([0.0, 0.1, 0.5, 2.0]),
            "block_size": random_.choice([64, 128]),
        }
        fate = {3: "interrupted", 6: "refused", 8: "failed"}.get(i % 10, "done")
        if fate == "interrupted":
            graph[SAMPLER]["inputs"]["steps"] = 500
        if fate == "refused":
            graph["4"]["inputs"]["decay"] = -1
        if fate == "failed":  # before the sampler or after it
            node, name = random_.choice([("4", "decay"), ("24", "error")])
            graph[node]["inputs"][name] = float("nan")
        yield fate, graph


def run(server, fate: str, graph: dict) -> Outcome:
    if fate != "interrupted":
        return ask(server, graph)
    first, second = queue(server, graph), queue(server, graph | {"unused": graph["8"]})
    post(server, "/queue", {"delete": [second]})
    deadline = time.monotonic() + 60
    while not get(server, "/queue")["queue_running"]:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(random.random() / 3)
    post(server, "/interrupt", {"prompt_id": first})
    return wait(server, first)


def test_two_hundred_prompts(server):
    process = psutil.Process(server.process.pid)
    memory, counts, whole = [], [], whole_graph().keys()
    for i, (fate, graph) in enumerate(prompts()):
        outcome = run(server, fate, graph)
        assert outcome.kind == fate, (i, outcome)
        if i % 10 == 9:
            post(server, "/history", {"clear": True})  # ComfyUI's own, which grows
            counts.append(get(server, "/counts") | {"files": process.num_fds()})
        if graph.keys() == whole and fate == "done":  # others leave less in the caches
            memory.append(process.memory_info().rss)
    assert get(server, "/queue") == {"queue_running": [], "queue_pending": []}
    third = len(memory) // 3
    before, after = (statistics.median(x) for x in (memory[third:-third], memory[-third:]))
    assert after - before < MOST_GROWTH, [round(x / 2**20) for x in memory]
    early, late = counts[len(counts) // 3], counts[-1]
    for kind in ("threads", "files", "tensors"):
        assert late[kind] <= early[kind] + 8, (kind, early, late)
    for kind, number in late["ours"].items():
        assert number <= early["ours"].get(kind, 0) + 8, (kind, early, late)
    assert_only_pictures(server.log.parent / "temp")


def assert_only_pictures(folder: Path):
    """Our nodes only write pictures, to the folder of previews that ComfyUI empties."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} <= {".png"}
    assert len(files) <= PROMPTS * len(OURS)
    assert all(path.stat().st_size < 500_000 for path in files)
