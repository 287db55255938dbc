"""Real processes, each with its side of a group of cards."""

import multiprocessing
import tempfile
import time
import traceback
from contextlib import suppress
from multiprocessing.connection import wait
from pathlib import Path

import torch

from radial_core.ulysses.group import connect

# Each process is forked from one that has torch and nothing else: that takes no seconds.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["torch", "torch.distributed"])


def on_cards(
    function, size: int, *arguments, device="cpu", seconds=20.0, limit=60.0, lost=()
) -> list:
    """What function(group, device, *arguments) returns on each card; None of those that are lost.

    device: "cpu", or "cuda" for one GPU each. seconds: the group's time limit. limit: for all.
    lost: cards whose processes are to be killed or stopped by the function. An error on a card, or
    no answer within the limit, fails the test. No process is left.
    """
    processes, connections = [], []
    with tempfile.TemporaryDirectory() as folder:
        try:
            for rank in range(size):
                ours, theirs = CONTEXT.Pipe()
                on = device if device == "cpu" else f"{device}:{rank}"
                given = theirs, Path(folder, "store"), rank, size, on, seconds, function, arguments
                processes.append(CONTEXT.Process(target=_run, args=given, daemon=True))
                processes[-1].start()
                theirs.close()
                connections.append(ours)
            asked = [each for rank, each in enumerate(connections) if rank not in lost]
            answers = _received(asked, time.monotonic() + limit)
            return [answers.get(each) for each in connections]
        finally:
            for connection, process in zip(connections, processes, strict=False):
                connection.close()
                process.join(2)
                process.kill()  # also ends one that was stopped
                process.join()


def _received(connections: list, until: float) -> dict:
    answers, waiting = {}, list(connections)
    while waiting:
        ready = wait(waiting, until - time.monotonic())
        assert ready, f"{len(waiting)} cards did not answer"
        for connection in ready:
            waiting.remove(connection)
            answers[connection], error = connection.recv()
            assert error is None, error
    return answers


def _run(connection, store_file, rank, size, device, seconds, function, arguments):
    torch.set_num_threads(1)
    device = torch.device(device)
    answer, error = None, None
    try:
        if device.type == "cuda":
            torch.cuda.set_device(device)
        group = connect(store_file, rank, size, device, seconds)
        answer = function(group, device, *arguments)
    except BaseException:
        error = f"card {rank} of {size}: {traceback.format_exc()}"
    connection.send((answer, error))
    with suppress(EOFError):
        connection.recv()  # others may not be through with the group yet
    if error is None:
        group.abort()
