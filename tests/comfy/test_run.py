"""workflows/run.py, run as a command."""

import asyncio
import contextlib
import http.server
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import headless.server
import psutil
import pytest
from conftest import PACK
from headless.client import run_graph
from headless.graph import load_graph, names, set_inputs
from headless.server import ServerDied, standin_server
from headless.small import stand_in_size

RUN = PACK / "workflows/run.py"
QUICK = [f"--set={s}" for s in ("width=128", "height=128", "length=65", "steps=2", "dense_steps=0")]


PATIENCE = 120  # seconds to wait for something


def run(*arguments, cwd):
    command = [sys.executable, RUN, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)


def start(*arguments, **options):
    """run.py in its own session, where Ctrl-C works even if these tests run in the background."""
    return subprocess.Popen(
        [sys.executable, RUN, *arguments],
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        **options,
    )


def servers_of(process):
    """The ComfyUI servers that a run.py has started."""
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it may end in the meantime
            if "--port" in child.cmdline():
                found.append(child)
    return found


def test_without_a_comfyui_on_the_machine(tmp_path):
    done = run("wan21_t2v", *QUICK, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "tiny random weights" in done.stdout
    assert done.stdout.count("preset is custom, because you set dense_steps") == 1
    assert "Radial attention: 2 steps, 2 self-attention calls radial" in done.stdout
    assert "KSampler" in done.stderr and "2/2" in done.stderr  # the progress bar
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("Output: "))
    assert Path(line.removeprefix("Output: ")).stat().st_size > 1000
    assert (tmp_path / "output").is_dir()


@pytest.mark.slow
def test_the_nodes_texts_are_printed(tmp_path):
    done = run("wan21_long", *QUICK, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    printed = done.stdout.partition("\nRadial Attention Report:\n  ")[2]
    assert "2 steps" in printed.partition("\nRadial attention: 2 steps")[0]


@pytest.mark.slow
def test_with_the_users_own_comfyui(tmp_path, environment, stand_ins):
    theirs = tmp_path / "ComfyUI"
    shutil.copytree(environment.comfyui, theirs)
    shutil.copytree(stand_ins, theirs / "models", dirs_exist_ok=True)
    shutil.copytree(
        PACK / "workflows/headless/standin_sizes", theirs / "custom_nodes/standin_sizes"
    )
    options = ("--comfyui", theirs, "--python", environment.python, "--", "--cpu")
    done = run("wan21_t2v", *QUICK, *options, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Output: " in done.stdout and "calls radial" in done.stdout


def test_with_a_running_server(tmp_path, environment, stand_ins):
    with standin_server(environment, stand_ins) as server:
        done = run("wan21_t2v", *QUICK, "--server", server.url, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert "Output: " in done.stdout and "calls radial" in done.stdout
        again = run("wan21_t2v", *QUICK, "--server", server.url + "/", cwd=tmp_path)
        assert "no sampler ran (the server had the result already)" in again.stdout


@pytest.mark.skipif(os.name == "nt", reason="signals")
@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("moment", ["Starting ComfyUI", "/500"])
def test_when_stopped_it_leaves_no_server(tmp_path, moment, number):
    log = tmp_path / "log"
    with open(log, "wb") as out:
        process = start(
            "wan21_t2v", *QUICK, "--set=steps=500", cwd=tmp_path, stdout=out, stderr=out
        )
    started = []
    try:
        wait_for(lambda: moment in log.read_text())
        wait_for(lambda: started.extend(servers_of(process)) or started)
        process.send_signal(number)
        assert process.wait(timeout=PATIENCE) != 0
        assert not psutil.wait_procs(started, timeout=PATIENCE)[1]
        assert "Traceback" not in log.read_text()
    finally:
        for left in (process, *started):
            with contextlib.suppress(psutil.Error):
                left.kill()


@pytest.mark.skipif(os.name == "nt", reason="signals")
@pytest.mark.parametrize("times", [4, pytest.param(20, marks=pytest.mark.slow)])
def test_when_stopped_while_it_starts_it_leaves_no_server(tmp_path, times):
    """Signals a few milliseconds apart, around the start of the server's process."""
    sleeper = tmp_path / "ComfyUI"
    sleeper.mkdir()
    (sleeper / "main.py").write_text("import time; time.sleep(60)")
    for i in range(times):
        pipe = {"stdout": subprocess.PIPE, "text": True}
        process = start("wan21_t2v", "--comfyui", sleeper, cwd=tmp_path, **pipe)
        while "Starting" not in process.stdout.readline():
            pass
        time.sleep(i / (200 * times))
        process.send_signal(signal.SIGINT)
        process.wait(timeout=PATIENCE)
        left = [p for p in psutil.process_iter(["cmdline"]) if str(sleeper) in line_of(p)]
        for p in left:
            p.kill()
        assert not left, f"{5 * i / times} ms"


def line_of(process):
    return " ".join(process.info["cmdline"] or [])


def wait_for(what):
    deadline = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_server_that_dies_is_reported_with_the_end_of_its_log(tmp_path, environment):
    theirs = tmp_path / "ComfyUI"
    theirs.mkdir()
    (theirs / "main.py").write_text("print('No space left on device')\nraise SystemExit(3)\n")
    done = run("wan21_t2v", "--comfyui", theirs, cwd=tmp_path)
    assert done.returncode != 0
    assert "ComfyUI ended with code 3" in done.stderr
    assert "No space left on device" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_server_that_dies_while_sampling(tmp_path, environment, stand_ins):
    graph = set_inputs(load_graph("wan21_t2v"), {"steps": 500, "width": 128, "height": 128})

    def kill_when_it_samples(server):
        wait_for(lambda: re.search(rb"[1-9]/500", server.log.read_bytes()))
        server.process.kill()

    with standin_server(environment, stand_ins) as server:
        threading.Thread(target=kill_when_it_samples, args=[server], daemon=True).start()
        with pytest.raises(ServerDied, match=r"(?s)code -9\. The end of its log:\n  \| "):
            asyncio.run(run_graph(server.url, graph, tmp_path, server.check))


@pytest.mark.slow
def test_a_port_that_is_taken_in_the_meantime(environment, stand_ins, monkeypatch):
    """Another server answers on the port that was free: it is not used, and the next port is."""
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler
    ) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        ports = [other.server_address[1], headless.server._free_port()]
        monkeypatch.setattr(headless.server, "_free_port", lambda: ports.pop(0))
        with standin_server(environment, stand_ins) as server:
            assert not ports and str(other.server_address[1]) not in server.url
        other.shutdown()


@pytest.mark.slow
def test_a_proxy_is_not_used_for_this_machine(environment, stand_ins, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setattr(headless.server, "START_SECONDS", 60)
    with standin_server(environment, stand_ins) as server:
        server.check()


def test_stand_ins_shrink_plain_values_that_are_not_set():
    graph = load_graph("wan21_t2v")
    assert stand_in_size(graph, {}) == {"8.width": 128, "8.height": 64, "9.steps": 8}
    graph["8"]["inputs"]["width"] = ["7", 0]  # a link
    graph["8"]["inputs"]["length"] = 1001
    assert stand_in_size(graph, {"steps": 3}) == {"8.height": 64, "8.length": 201}
    assert stand_in_size(graph, {"8.length": 333, "9.steps": 3}) == {"8.height": 64}
    graph["9"]["inputs"]["steps"] = "many"
    assert "9.steps" not in stand_in_size(graph, {})


def test_two_shrunk_samplers_switch_at_the_same_share_of_the_schedule():
    graph = load_graph("wan22_t2v")
    samplers = [n for n in graph if graph[n]["class_type"] == "KSamplerAdvanced"]
    assert not any(
        key.endswith("step") or key.endswith("steps") for key in stand_in_size(graph, {})
    )
    for n, start, end in zip(samplers, (0, 10), (10, 10000), strict=True):
        graph[n]["inputs"] |= {"steps": 20, "start_at_step": start, "end_at_step": end}
    first, second = samplers
    small = stand_in_size(graph, {})
    assert small[f"{first}.end_at_step"] == small[f"{second}.start_at_step"] == 4
    assert small[f"{first}.steps"] == 8 and f"{second}.end_at_step" not in small
    assert not any("step" in key for key in stand_in_size(graph, {"steps": 20}))


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "is not JSON: Expecting value"),
        ("{", "is not JSON: Expecting property name"),
        ("[" * 100_000, "is not JSON: "),
        ("[]", "is not in API format. In ComfyUI use File > Export (API)."),
        ("{}", "is not in API format"),
        ("3", "is not in API format"),
        ('{"1": {"inputs": {}}}', "is not in API format"),
        (
            '{"1": {"class_type": "A", "inputs": {}}, "2": []}',
            "node 2: expected an object, got a list",
        ),
        ('{"1": {"class_type": "A", "inputs": {}}, "2": {}}', "node 2: has no class_type"),
        ('{"1": {"class_type": null, "inputs": {}}}', "node 1: class_type must be text, got null"),
        ('{"1": {"class_type": "A"}}', "node 1: has no inputs"),
        (
            '{"1": {"class_type": "A", "inputs": []}}',
            "node 1: inputs must be an object, got a list",
        ),
        ('{"1": {"class_type": "A", "inputs": 3}}', "inputs must be an object, got a number"),
        (
            '{"1": {"class_type": "A", "inputs": {}, "_meta": true}}',
            "node 1: _meta must be an object, got true or false",
        ),
        (
            '{"1": {"class_type": "A", "inputs": {"model": ["1"]}}}',
            "node 1: model: a link must be [node, number of its output], got ['1']",
        ),
        ('{"1": {"class_type": "A", "inputs": {"model": ["1", "0"]}}}', "a link must be"),
        (
            '{"1": {"class_type": "A", "inputs": {"model": ["7", 0]}}}',
            "node 1: model comes from node 7, which is not there",
        ),
    ],
)
def test_a_broken_graph_gets_one_clear_line(tmp_path, text, message):
    path = tmp_path / "graph.json"
    path.write_text(text)
    with pytest.raises(SystemExit) as stopped:
        load_graph(str(path))
    line = str(stopped.value)
    assert line.startswith(str(path)) and message in line and "\n" not in line


def test_a_graph_in_another_encoding(tmp_path):
    path = tmp_path / "graph.json"
    path.write_bytes("{}".encode("utf-16"))
    with pytest.raises(SystemExit, match="is not JSON: "):
        load_graph(str(path))


def test_the_help_names_every_workflow(tmp_path):
    done = run("--help", cwd=tmp_path)
    listed = done.stdout.replace("\n", " ").split()
    assert len(names()) >= 12 and set(names()) <= {name.strip(",") for name in listed}


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["no_such"], "No workflow named no_such. There are: dense_vs_radial, "),
        (["wan21_t2v", "--comfyui", "nowhere"], "has no main.py"),
        (["wan21_t2v", "--set", "steps"], "expected INPUT=VALUE, got 'steps'"),
        (["wan21_t2v", "--set", "preset=faster", "--set=decay=1"], "the preset faster decides it"),
        (["wan21_t2v", "--set", "stepz=3"], "no node of the workflow has such an input"),
        (["wan21_t2v", "--server", "http://127.0.0.1:9"], "Lost the server at http://127.0.0.1:9"),
        (["wan21_t2v", "--server", "localhost:8188"], "expected http://HOST:PORT"),
        (["wan21_t2v", "--server", ""], "expected http://HOST:PORT, got ''"),
        (["wan21_t2v", "--python", "no/such"], "there is no program no/such"),
        (["wan21_t2v", "steps=20"], "unrecognized arguments: steps=20"),
        (["wan21_t2v", "--output", str(RUN)], "--output: can't make"),
        ([str(PACK / "workflows/wan21_t2v.json")], "is not in API format"),
    ],
)
def test_mistakes_get_one_clear_line(tmp_path, arguments, message):
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode != 0
    assert message in done.stderr and "Traceback" not in done.stderr
