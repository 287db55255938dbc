"""Queues a graph on a ComfyUI server through its API and follows it to the outputs."""

import asyncio
import contextlib
import json
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from tqdm import tqdm

from .graph import NODE

SUMMARY = "radial_attention.summary"
POLL_SECONDS = 2
_SHORT = aiohttp.ClientTimeout(total=5)


class GraphFailed(RuntimeError):
    """The server refused the graph, or a node failed. The message says which and why."""


@dataclass
class Result:
    """What a graph produced.

    files: copied to this machine. summaries: one a sampler run, see nodes/run/run_reporter.py.
    texts: the title of a node and the text that it shows.
    """

    files: list[Path] = field(default_factory=list)
    summaries: list[dict] = field(default_factory=list)
    texts: list[tuple[str, str]] = field(default_factory=list)


async def run_graph(
    url: str, graph: dict, output: Path, check: Callable[[], None] = lambda: None
) -> Result:
    """Run an API graph on the server at `url` and copy its output files into `output`.

    check: called every few seconds; any exception from it ends the run. If the run is cancelled,
    the server is told to drop it. Raises GraphFailed.
    """
    client = uuid.uuid4().hex
    result = Result()
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=10)
    # Paths are relative to the url, which may have a path of its own.
    async with aiohttp.ClientSession(f"{url}/", timeout=timeout) as session:
        try:
            async with session.ws_connect(f"ws?clientId={client}", max_msg_size=0) as socket:
                prompt_id = await _queue(session, graph, client)
                try:
                    await _follow(session, socket, prompt_id, graph, result, check)
                except BaseException as error:
                    if not isinstance(error, GraphFailed):
                        await _drop(session, prompt_id)
                    raise
            await _collect(session, prompt_id, graph, output, result)
        except aiohttp.ClientError as error:
            check()
            raise GraphFailed(f"Lost the server at {url}: {error}") from error
    return result


async def _queue(session, graph: dict, client: str) -> str:
    async with session.get(f"object_info/{NODE}") as answer:
        if answer.status != 200 or NODE not in await answer.json():
            raise GraphFailed(
                "This server does not have the pack: it knows no node named "
                f"{NODE}. Put the pack into its custom_nodes folder and restart it."
            )
    async with session.post("prompt", json={"prompt": graph, "client_id": client}) as answer:
        if answer.status == 400:
            raise GraphFailed(_refusal(await answer.json(), graph))
        if answer.status != 200:
            raise GraphFailed(f"The server answered {answer.status}: {await answer.text()}")
        return (await answer.json())["prompt_id"]


def _refusal(answer: dict, graph: dict) -> str:
    error = answer.get("error", answer)
    lines = ["The server refused the graph: " + (error.get("message") or str(error))]
    for node, errors in (answer.get("node_errors") or {}).items():
        for e in errors["errors"]:
            lines.append(f"  {title_of(graph, node)}: {e['message']}: {e.get('details', '')}")
    return "\n".join(lines)


async def _follow(session, socket, prompt_id: str, graph: dict, result: Result, check):
    """Read the server's events until the prompt is done, drawing a bar for nodes with steps."""
    with contextlib.closing(_Bar()) as bar:
        while True:
            try:
                message = await socket.receive(timeout=POLL_SECONDS)
            except asyncio.TimeoutError:
                check()
                if await _history(session, prompt_id):  # done, but its last event was lost
                    return
                continue
            if message.type is aiohttp.WSMsgType.BINARY:
                continue  # a preview image
            if message.type is not aiohttp.WSMsgType.TEXT:
                await asyncio.sleep(0.5)  # time for a dying process to end
                check()
                raise GraphFailed("The server closed the connection.")
            event = json.loads(message.data)
            event_type, data = event.get("type"), event.get("data")
            if not isinstance(data, dict):
                continue  # an event of another pack
            if event_type == SUMMARY:
                result.summaries.append(data)
            elif data.get("prompt_id") != prompt_id:
                continue
            elif event_type == "executing":
                bar.close()
                if data["node"] is None:  # the prompt is done, and its history is written
                    return
            elif event_type == "progress":
                bar.show(title_of(graph, data["node"]), data["value"], data["max"])
            elif event_type == "execution_interrupted":
                raise GraphFailed("The run was interrupted on the server.")
            elif event_type == "execution_error":
                title = title_of(graph, data.get("node_id"))
                trace = "".join(data.get("traceback") or [])
                raise GraphFailed(f"{title} failed: {data.get('exception_message')}\n{trace}")


class _Bar:
    def __init__(self):
        self._bar = None

    def show(self, title: str, value: int, most: int):
        if self._bar is None or self._bar.desc != title or self._bar.total != most:
            self.close()
            self._bar = tqdm(total=most, desc=title, unit="step", dynamic_ncols=True)
            self._bar.desc = title
        self._bar.update(value - self._bar.n)

    def close(self):
        if self._bar is not None:
            self._bar.close()
            self._bar = None


async def _drop(session, prompt_id: str):
    with contextlib.suppress(aiohttp.ClientError, asyncio.TimeoutError):
        await session.post("queue", json={"delete": [prompt_id]}, timeout=_SHORT)
        await session.post("interrupt", json={"prompt_id": prompt_id}, timeout=_SHORT)


async def _history(session, prompt_id: str) -> dict | None:
    """What the server keeps of a finished prompt; None until then."""
    try:
        async with session.get(f"history/{prompt_id}", timeout=_SHORT) as answer:
            return (await answer.json()).get(prompt_id)
    except asyncio.TimeoutError:
        return None  # busy


async def _collect(session, prompt_id: str, graph: dict, output: Path, result: Result):
    history = await _history(session, prompt_id)
    if history is None or history.get("status", {}).get("status_str") == "error":
        raise GraphFailed("The run failed; the server's log says why.")
    for node, outputs in history["outputs"].items():
        texts = (text for text in _list(outputs.get("text")) if isinstance(text, str))
        result.texts += [(title_of(graph, node), text) for text in texts]
        for entry in (e for entries in outputs.values() for e in _list(entries)):
            if isinstance(entry, dict) and entry.get("type") == "output" and "filename" in entry:
                result.files.append(await _download(session, entry, output))


def _list(entries) -> list:
    return entries if isinstance(entries, (list, tuple)) else []


async def _download(session, entry: dict, output: Path) -> Path:
    wanted = {key: entry.get(key, "") for key in ("filename", "subfolder", "type")}
    async with session.get("view", params=wanted) as answer:
        answer.raise_for_status()
        name = Path(entry["filename"])
        target, n = output / name.name, 1
        while target.exists():
            n += 1
            target = output / f"{name.stem}-{n}{name.suffix}"
        target.write_bytes(await answer.read())
    return target


def title_of(graph: dict, node: str | None) -> str:
    """A node's title in the graph, or else its class."""
    entry = graph.get(str(node), {})
    return entry.get("_meta", {}).get("title") or entry.get("class_type") or f"node {node}"
