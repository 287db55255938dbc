"""Plain HTTP to a ComfyUI server: whatever body, and what became of it."""

import json
import time
import urllib.error
import urllib.request
from dataclasses import dataclass

_local = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True)
class Outcome:
    """What became of a prompt: "refused" before it ran, "failed", "interrupted" or "done".

    message: why, one line each. error: the class of the exception of a node that failed. executed:
    the nodes that were done by then; not known of what is done.
    """

    kind: str
    message: str = ""
    node: str | None = None
    error: str | None = None
    executed: tuple[str, ...] = ()


def get(server, path: str):
    with _local.open(server.url + path, timeout=60) as answer:
        return json.load(answer)


def post(server, path: str, body) -> tuple[int, object]:
    """Status and what was said. body: bytes, or what JSON can say (NaN and Infinity included)."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(server.url + path, data, {"Content-Type": "application/json"})
    try:
        with _local.open(request, timeout=60) as answer:
            return answer.status, _said(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, _said(error.read())


def _said(text: bytes):
    try:
        return json.loads(text)
    except ValueError:
        return text.decode(errors="replace")


def queue(server, graph: dict) -> str | Outcome:
    """The id of a prompt that was taken, or how it was refused.

    ComfyUI runs what it can of a graph of which it refuses a part; here that is refused as well.
    """
    status, said = post(server, "/prompt", {"prompt": graph})
    if not isinstance(said, dict):
        return Outcome("refused", f"{status}: {said}")
    errors = [e for node in (said.get("node_errors") or {}).values() for e in node["errors"]]
    if not errors and status == 200:
        return said["prompt_id"]
    if status == 200:
        wait(server, said["prompt_id"])
    errors = errors or [said["error"]]
    return Outcome("refused", "\n".join(f"{e['message']}: {e.get('details', '')}" for e in errors))


def wait(server, prompt_id: str, seconds: float = 180) -> Outcome:
    """What became of a prompt in the queue."""
    deadline = time.monotonic() + seconds
    while not (history := get(server, f"/history/{prompt_id}")):
        server.check()
        assert time.monotonic() < deadline, f"{prompt_id} took more than {seconds} s"
        time.sleep(0.01)
    for kind, data in history[prompt_id]["status"]["messages"]:
        executed = tuple(data.get("executed") or ())
        if kind == "execution_error":
            message, error = data["exception_message"].strip(), data["exception_type"]
            return Outcome("failed", message, data["node_id"], error, executed)
        if kind == "execution_interrupted":
            return Outcome("interrupted", node=data["node_id"], executed=executed)
    return Outcome("done")


def ask(server, graph: dict) -> Outcome:
    """What becomes of a graph."""
    taken = queue(server, graph)
    return taken if isinstance(taken, Outcome) else wait(server, taken)
