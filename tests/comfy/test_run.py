"""workflows/run.py as a person runs it."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from conftest import PACK
from headless.server import ServerDied, standin_server

RUN = PACK / "workflows/run.py"
QUICK = [f"--set={s}" for s in ("width=128", "height=128", "length=65", "steps=2", "dense_steps=0")]


def run(*arguments, cwd):
    command = [sys.executable, RUN, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)


def servers():
    """Command lines of ComfyUI servers on this machine, by pid."""
    found = {}
    for process in psutil.process_iter(["pid", "cmdline"]):
        line = process.info["cmdline"] or []
        if any(part.endswith("main.py") for part in line) and "--port" in line:
            found[process.info["pid"]] = line
    return found


def test_with_nothing_else_on_the_machine(tmp_path):
    before = servers()
    done = run("wan21_t2v", *QUICK, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "tiny random weights" in done.stdout
    assert "Radial attention: 2 steps, 2 self-attention calls radial" in done.stdout
    assert "KSampler" in done.stderr and "2/2" in done.stderr  # the progress bar
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("Output: "))
    assert Path(line.removeprefix("Output: ")).stat().st_size > 1000
    assert (tmp_path / "output").is_dir()
    assert servers().keys() <= before.keys()


def test_a_comfyui_of_the_users_own(tmp_path, environment, stand_ins):
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


def test_a_server_that_is_running(tmp_path, environment, stand_ins):
    with standin_server(environment, stand_ins) as server:
        done = run("wan21_t2v", *QUICK, "--server", server.url, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert "Output: " in done.stdout and "calls radial" in done.stdout
        again = run("wan21_t2v", *QUICK, "--server", server.url + "/", cwd=tmp_path)
        assert "no sampler ran (the server had the result already)" in again.stdout


@pytest.mark.skipif(os.name == "nt", reason="signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_in_the_middle_it_leaves_no_server(tmp_path, number):
    before = servers()
    with subprocess.Popen(
        [sys.executable, RUN, "wan21_t2v", "--set=steps=500"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        seen = b""
        while b"/500" not in seen:  # it samples
            piece = process.stderr.read1(4096)
            assert piece, seen.decode()
            seen += piece
        assert len(servers()) == len(before) + 1
        process.send_signal(number)
        process.communicate(timeout=30)
    assert process.returncode != 0
    assert servers().keys() <= before.keys()


def test_a_server_that_dies_is_reported_with_the_end_of_its_log(tmp_path, environment):
    theirs = tmp_path / "ComfyUI"
    theirs.mkdir()
    (theirs / "main.py").write_text("print('No space left on device')\nraise SystemExit(3)\n")
    done = run("wan21_t2v", "--comfyui", theirs, cwd=tmp_path)
    assert done.returncode != 0
    assert "ComfyUI ended with code 3" in done.stderr
    assert "No space left on device" in done.stderr and "Traceback" not in done.stderr


def test_a_server_that_dies_in_the_middle(environment, stand_ins):
    with standin_server(environment, stand_ins) as server:
        server.process.kill()
        deadline = time.monotonic() + 10
        with pytest.raises(ServerDied, match=r"(?s)end of its log.*Starting server"):
            while time.monotonic() < deadline:
                server.check()
                time.sleep(0.05)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["no_such"], "No workflow named no_such. There are: wan21_t2v"),
        (["wan21_t2v", "--comfyui", "nowhere"], "has no main.py"),
        (["wan21_t2v", "--set", "steps"], "expected INPUT=VALUE, got 'steps'"),
        (["wan21_t2v", "--set", "stepz=3"], "no node of the workflow has such an input"),
        (["wan21_t2v", "--server", "http://127.0.0.1:9"], "Lost the server at http://127.0.0.1:9"),
        ([str(PACK / "workflows/wan21_t2v.json")], "is not in API format"),
    ],
)
def test_mistakes_get_one_clear_line(tmp_path, arguments, message):
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode != 0
    assert message in done.stderr and "Traceback" not in done.stderr
