"""Plain HTTP to a ComfyUI server: posts any body and tells what became of it."""

import json
import time
import urllib.error
import urllib.request
from dataclasses import dataclass

_local = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True)
class Outcome:
    """What became of a prompt.

    kind: "refused" before it ran, "failed", "interrupted" or "done". message: why, one line for
    each reason. error: the class of a failed node's exception. executed: the nodes that had run by
    then; empty for "done".
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
    """The status and the answer. body: bytes, or a value for JSON (also NaN and Infinity)."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(server.url + path, data, {"Content-Type": "application/json"})
    try:
        with _local.open(request, timeout=60) as answer:
            return answer.status, _parsed(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, _parsed(error.read())


def _parsed(text: bytes):
    try:
        return json.loads(text)
    except ValueError:
        return text.decode(errors="replace")


def queue(server, graph: dict) -> str | Outcome:
    """The id of a prompt that was accepted, or the Outcome of one that was refused.

    ComfyUI refuses parts of a graph and runs the rest; here that counts as refused.
    """
    status, answer = post(server, "/prompt", {"prompt": graph})
    if not isinstance(answer, dict):
        return Outcome("refused", f"{status}: {answer}")
    errors = [e for node in (answer.get("node_errors") or {}).values() for e in node["errors"]]
    if not errors and status == 200:
        return answer["prompt_id"]
    if status == 200:
        wait(server, answer["prompt_id"])
    errors = errors or [answer["error"]]
    return Outcome("refused", "\n".join(f"{e['message']}: {e.get('details', '')}" for e in errors))


def wait(server, prompt_id: str, seconds: float = 180) -> Outcome:
    """Wait for a queued prompt and tell what became of it."""
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
    """Queue a graph, wait for it and tell what became of it."""
    queued = queue(server, graph)
    return queued if isinstance(queued, Outcome) else wait(server, queued)
