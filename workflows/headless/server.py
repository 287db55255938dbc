"""Starts a headless ComfyUI with this pack in it, and never leaves one behind."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

from .environment import Environment

PACK = Path(__file__).parents[2]
START_SECONDS = 180  # a cold disk is slow to import torch
TAIL_LINES = 30
ATTEMPTS = 3  # somebody may take the free port before the server does


class ServerDied(RuntimeError):
    """The server ended by itself; the message holds the end of its log."""


class Server:
    """A running ComfyUI: its `url`, and `check()`, which raises ServerDied once it is gone."""

    def __init__(self, process: subprocess.Popen, url: str, log: Path):
        self.process, self.url, self.log = process, url, log

    def check(self):
        code = self.process.poll()
        if code is not None:
            lines = self.log.read_text(errors="replace").splitlines()[-TAIL_LINES:]
            said = "\n".join(f"  | {line}" for line in lines)
            raise ServerDied(f"ComfyUI ended with code {code}. The end of its log:\n{said}")


@contextlib.contextmanager
def standin_server(
    environment: Environment, models: Path, arguments: Sequence[str] = ()
) -> Iterator[Server]:
    """ComfyUI of our environment, in a folder of its own, with the stand-in models."""
    with _temporary_folder() as base:
        packs = base / "custom_nodes"
        packs.mkdir()
        _link(PACK, packs / "radial-attention")
        _link(PACK / "workflows/headless/standin_sizes", packs / "standin_sizes")
        options = [
            *("--base-directory", base, "--models-directory", models),
            *("--disable-api-nodes", "--database-url", "sqlite:///:memory:"),
            *([] if _has_accelerator(environment.python) else ["--cpu"]),
            *arguments,
        ]
        with _running(environment, base, options) as server:
            yield server


@contextlib.contextmanager
def users_server(environment: Environment, arguments: Sequence[str] = ()) -> Iterator[Server]:
    """The user's own ComfyUI with its models; this pack is added unless it is there already."""
    installed = (environment.comfyui / "custom_nodes").glob("*/")
    with _temporary_folder() as base:
        options = list(arguments)
        if PACK not in (path.resolve() for path in installed):
            (base / "packs").mkdir()
            _link(PACK, base / "packs" / "radial-attention")
            paths = base / "paths.yaml"
            paths.write_text(f"radial_attention:\n  custom_nodes: {base / 'packs'}\n")
            options += ["--extra-model-paths-config", paths]
        with _running(environment, base, options) as server:
            yield server


@contextlib.contextmanager
def _running(environment: Environment, base: Path, options: list) -> Iterator[Server]:
    for attempt in range(1, ATTEMPTS + 1):
        server = _start(environment, base / f"comfyui-{attempt}.log", options)
        try:
            try:
                _wait_until_up(server)
            except ServerDied:
                if attempt < ATTEMPTS and "address already in use" in server.log.read_text():
                    continue
                raise
            yield server
            return
        finally:
            _stop(server.process)


def _start(environment: Environment, log: Path, options: list) -> Server:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        *(environment.python, environment.comfyui / "main.py", "--disable-auto-launch"),
        *("--listen", "127.0.0.1", "--port", port),
        *options,
    ]
    with open(log, "wb") as out:
        process = subprocess.Popen(
            [str(part) for part in command],
            cwd=environment.comfyui,
            stdout=out,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C reaches us alone, and we end it in order
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
    return Server(process, f"http://127.0.0.1:{port}", log)


def _wait_until_up(server: Server):
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        server.check()
        try:
            urllib.request.urlopen(f"{server.url}/system_stats", timeout=5).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise TimeoutError(f"ComfyUI was not up within {START_SECONDS} seconds. Log: {server.log}")


def _stop(process: subprocess.Popen):
    """End the server and whatever it started."""
    for kill in (False, True):
        if process.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            if os.name == "nt":
                process.kill() if kill else process.terminate()
            else:
                os.killpg(process.pid, signal.SIGKILL if kill else signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=5)


@contextlib.contextmanager
def _temporary_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="radial-attention-")).resolve()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # links in it are removed, not followed


def _link(source: Path, target: Path):
    try:
        target.symlink_to(source, target_is_directory=True)
    except OSError:  # Windows without the right to make links
        shutil.copytree(source, target, ignore=shutil.ignore_patterns(".git", "output"))


def _has_accelerator(python: Path) -> bool:
    probe = "import torch; print(torch.cuda.is_available() or torch.backends.mps.is_available())"
    return subprocess.check_output([python, "-c", probe], text=True).strip() == "True"


def end_on_signals():
    """Let the signals that end a program unwind it, so that its servers are stopped."""
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), lambda number, frame: sys.exit(128 + number))
