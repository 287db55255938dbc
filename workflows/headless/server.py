"""Starts a headless ComfyUI with this pack, and always stops it again."""

import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

from .environment import Environment
from .signals import undisturbed

PACK = Path(__file__).parents[2]
START_SECONDS = 300  # importing torch from a cold disk is slow, and a user may have many packs
TAIL_LINES = 30
ATTEMPTS = 3  # another program may take the free port before the server does
PORT_TAKEN = re.compile("already in use|10048")  # ComfyUI's message, Windows' error number

# A proxy for the internet must not be used for this machine.
_local = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class ServerDied(RuntimeError):
    """The server ended by itself or never came up. The message has the end of its log."""


class Server:
    """A running ComfyUI: its `url`, and `check()`, which raises ServerDied once it is gone."""

    def __init__(self, process: subprocess.Popen, url: str, log: Path):
        self.process, self.url, self.log = process, url, log

    def check(self):
        code = self.process.poll()
        if code is not None:
            raise self.died(f"ComfyUI ended with code {code}")

    def died(self, how: str) -> ServerDied:
        text = self.log.read_text(encoding="utf-8", errors="replace")
        lines = [line.rpartition("\r")[2] for line in text.split("\n")][-TAIL_LINES:]
        tail = "\n".join(f"  | {line}" for line in lines)
        return ServerDied(f"{how}. The end of its log:\n{tail}")


@contextlib.contextmanager
def standin_server(
    environment: Environment, models: Path, arguments: Sequence[str] = ()
) -> Iterator[Server]:
    """The ComfyUI of our environment, with its own base folder and the stand-in models.

    The input folder has ComfyUI's own example.png and the stand-in clips.
    """
    with _temporary_folder() as base:
        shutil.copytree(environment.comfyui / "input", base / "input")
        shutil.copytree(models / "clips", base / "input" / "clips")
        _link(models, base / "models")
        packs = base / "custom_nodes"
        packs.mkdir()
        _link(PACK, packs / "radial-attention")
        _link(PACK / "workflows/headless/standin_sizes", packs / "standin_sizes")
        variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        options = [
            *("--base-directory", base, "--disable-api-nodes"),
            *("--database-url", "sqlite:///:memory:"),
            *arguments,
        ]
        if not _has_gpu(environment.python):
            options.append("--cpu")
            # The models are tiny: more threads would only slow each other down.
            variables.setdefault("OMP_NUM_THREADS", "2")
        with _running(environment, base, options, variables) as server:
            yield server


@contextlib.contextmanager
def users_server(environment: Environment, arguments: Sequence[str] = ()) -> Iterator[Server]:
    """The user's own ComfyUI with its models; this pack is added unless it is already installed."""
    installed = (environment.comfyui / "custom_nodes").glob("*/")
    with _temporary_folder() as base:
        options = list(arguments)
        if PACK not in (path.resolve() for path in installed):
            (base / "packs").mkdir()
            _link(PACK, base / "packs" / "radial-attention")
            paths = base / "paths.yaml"  # JSON is YAML
            folders = {"radial_attention": {"custom_nodes": str(base / "packs")}}
            paths.write_text(json.dumps(folders), encoding="utf-8")
            options += ["--extra-model-paths-config", paths]
        with _running(environment, base, options, dict(os.environ)) as server:
            yield server


@contextlib.contextmanager
def _running(
    environment: Environment, base: Path, options: list, variables: dict
) -> Iterator[Server]:
    for attempt in range(1, ATTEMPTS + 1):
        with contextlib.ExitStack() as stack:
            with undisturbed():
                log = base / f"comfyui-{attempt}.log"
                server = _start(environment, base, log, options, variables)
                stack.callback(_stop, server.process)
            try:
                _wait_until_up(server, base)
            except ServerDied:
                if attempt < ATTEMPTS and PORT_TAKEN.search(log.read_text(errors="replace")):
                    continue
                raise
            yield server
            return


def _start(
    environment: Environment, base: Path, log: Path, options: list, variables: dict
) -> Server:
    port = _free_port()
    command = [
        *(environment.python, environment.comfyui / "main.py", *options),
        # Last, so that they win. Our own temporary folder, because ComfyUI empties it at start.
        *("--disable-auto-launch", "--temp-directory", base),
        *("--listen", "127.0.0.1", "--port", port),
    ]
    with open(log, "wb") as out:
        process = subprocess.Popen(
            [str(part) for part in command],
            cwd=environment.comfyui,
            stdout=out,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C only reaches us, and we stop the server properly
            env={**variables, "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"},
        )
    return Server(process, f"http://127.0.0.1:{port}", log)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _wait_until_up(server: Server, base: Path):
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        server.check()
        # A server that answers on this port is ours only if it was started with our folder.
        with contextlib.suppress(OSError, http.client.HTTPException, ValueError, KeyError):
            with _local.open(f"{server.url}/system_stats", timeout=5) as answer:
                if str(base) in json.load(answer)["system"]["argv"]:
                    return
        time.sleep(0.2)
    raise server.died(f"ComfyUI was not up within {START_SECONDS} seconds")


def _stop(process: subprocess.Popen):
    """End the server and its child processes."""
    with undisturbed():
        if os.name == "nt":
            process.kill()
            process.wait()
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=5)


@contextlib.contextmanager
def _temporary_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="radial-attention-")).resolve()
    try:
        yield folder
    finally:
        with undisturbed():
            shutil.rmtree(folder, ignore_errors=True)  # links in it are removed, not followed


def _link(source: Path, target: Path):
    try:
        target.symlink_to(source, target_is_directory=True)
    except OSError:  # Windows without the right to make links
        shutil.copytree(source, target, ignore=shutil.ignore_patterns(".git", "output"))


def _has_gpu(python: Path) -> bool:
    probe = "import torch; print(torch.cuda.is_available())"
    return subprocess.check_output([python, "-c", probe], text=True).strip() == "True"
