"""Runs a workflow of this pack on a headless ComfyUI.

By default it sets up an isolated environment with torch and the real ComfyUI (once), and uses tiny
random weights instead of the checkpoints. With your own ComfyUI (--comfyui) or a running server
(--server) it uses the checkpoints you have.
"""

import argparse
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parent))  # Python's isolated mode leaves it out

from headless import environment as env  # noqa: E402
from headless.graph import NODE, load_graph, names, set_inputs  # noqa: E402
from headless.presets import CUSTOM, made_custom  # noqa: E402
from headless.small import stand_in_size  # noqa: E402


def main():
    arguments = parse()
    graph = load_graph(arguments.workflow)
    settings = dict(arguments.set)
    small = {} if arguments.server or arguments.comfyui else stand_in_size(graph, settings)
    custom = made_custom(graph, settings)
    presets = {f"{node}.preset": CUSTOM for node in custom}
    graph = set_inputs(graph, {**small, **settings, **presets})
    make_folder(arguments.output)
    use_python_of(arguments)
    for node, inputs in custom.items():
        print(
            f"Node {node}: its preset is custom, because you set {', '.join(inputs)}. "
            "All its inputs count now."
        )
    from headless.server import ServerDied
    from headless.signals import end_on_signals

    end_on_signals()
    try:
        if arguments.server:
            run(arguments.server, graph, arguments.output)
        elif arguments.comfyui:
            run_on_users_comfyui(arguments, graph)
        else:
            run_on_stand_ins(arguments, graph, small)
    except ServerDied as error:
        raise SystemExit(str(error)) from None


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0],
        epilog=__doc__.split("\n\n", 1)[1],
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="%(prog)s WORKFLOW [options] [-- ComfyUI's own options]",
    )
    parser.add_argument("workflow", help=f"one of {', '.join(names())}, or an API JSON file")
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--comfyui", type=comfyui_folder, metavar="DIR", help="start the ComfyUI in DIR"
    )
    where.add_argument(
        "--server", type=server_url, metavar="URL", help="use the ComfyUI running at URL"
    )
    parser.add_argument(
        "--python", type=program, help="the Python of --comfyui, if not in a venv there"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        type=setting,
        metavar="[NODE.]INPUT=VALUE",
        help="set an input on every node that has it, or on one: --set steps=20 --set 9.seed=7",
    )
    parser.add_argument(
        "--output", type=Path, default=Path("output"), help="folder for the outputs (./output)"
    )
    given = sys.argv[1:]
    split = given.index("--") if "--" in given else len(given)
    arguments = parser.parse_args(given[:split])
    arguments.comfyui_arguments = given[split + 1 :]
    return arguments


def setting(text: str) -> tuple[str, object]:
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"expected INPUT=VALUE, got {text!r}")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def server_url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise argparse.ArgumentTypeError(f"expected http://HOST:PORT, got {text!r}")
    return text.rstrip("/")


def comfyui_folder(text: str) -> Path:
    folder = Path(text).expanduser().resolve()
    if not (folder / "main.py").is_file():
        raise argparse.ArgumentTypeError(f"{folder} has no main.py, so it is not ComfyUI's folder")
    return folder


def program(text: str) -> Path:
    path = shutil.which(os.path.expanduser(text))
    if not path:
        raise argparse.ArgumentTypeError(f"there is no program {text}")
    return Path(path).absolute()


def make_folder(folder: Path):
    """Make the output folder before anything runs, so that no result is lost."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SystemExit(f"--output: can't make {folder}: {error.strerror}") from None
    if not os.access(folder, os.W_OK):
        raise SystemExit(f"--output: can't write into {folder}")


def use_python_of(arguments):
    """Restart under a Python with the packages that are needed, unless this one has them."""
    if arguments.comfyui:
        python = users_python(arguments)
    elif not arguments.server:
        python = env.ensure_environment().python
    elif not all(importlib.util.find_spec(name) for name in ("aiohttp", "tqdm")):
        python = env.ensure_client()
    else:
        return
    if Path(sys.executable) == python or os.environ.get("RADIAL_ATTENTION_PYTHON") == str(python):
        return
    os.environ["RADIAL_ATTENTION_PYTHON"] = str(python)
    command = [str(python), str(Path(__file__).resolve()), *sys.argv[1:]]
    sys.stdout.flush()
    if os.name != "nt":
        os.execv(command[0], command)
    process = subprocess.Popen(command)
    while True:  # Ctrl-C reaches both; this one waits while the other cleans up
        try:
            sys.exit(process.wait())
        except KeyboardInterrupt:
            pass


def users_python(arguments) -> Path:
    folder = arguments.comfyui
    candidates = [
        folder / "venv/bin/python",
        folder / ".venv/bin/python",
        folder / "venv/Scripts/python.exe",
        folder / ".venv/Scripts/python.exe",
        folder.parent / "python_embeded/python.exe",  # the portable build's own spelling
    ]
    existing = [path for path in candidates if path.is_file()]
    return arguments.python or (existing[0] if existing else Path(sys.executable))


def run_on_stand_ins(arguments, graph: dict, small: dict):
    from headless.server import standin_server

    environment = env.ensure_environment()
    models = stand_in_models(environment)
    print(
        "No checkpoints: tiny random weights of the same architecture stand in for the model,\n"
        "text encoder and VAE, so the video is coloured noise."
    )
    if small:
        sizes = sorted({f"{name.rpartition('.')[2]} {n}" for name, n in small.items()})
        print(f"At a small size: {', '.join(sizes)} (--set changes it).")
    print(f"Starting ComfyUI {env.NEWEST.version} ...", flush=True)
    with standin_server(environment, models, arguments.comfyui_arguments) as server:
        run(server.url, graph, arguments.output, server.check)


def stand_in_models(environment: env.Environment) -> Path:
    """The stand-ins' folder, written on first use and again whenever the code for them changes."""
    workflows = Path(__file__).resolve().parent
    recipe = b"".join(
        path.read_bytes() for path in sorted(workflows.glob("headless/standins/*.py"))
    )
    tag = hashlib.sha256(recipe).hexdigest()[:12]
    models = environment.comfyui.parent / f"stand-ins-{tag}"
    if models.exists():
        return models
    print("Making the stand-in weights", flush=True)
    fresh = models.with_name(f"{models.name}.{os.getpid()}")
    try:
        command = [environment.python, "-m", "headless.standins", environment.comfyui, fresh]
        variables = {**os.environ, "PYTHONPATH": str(workflows)}
        process = subprocess.run(command, capture_output=True, text=True, env=variables)
        if process.returncode:
            raise SystemExit(f"{process.stderr}\nCould not make the stand-in weights in {fresh}.")
        if not models.exists():  # another run may have been faster
            fresh.rename(models)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return models


def run_on_users_comfyui(arguments, graph: dict):
    from headless.server import users_server

    print(f"Starting ComfyUI in {arguments.comfyui} ...", flush=True)
    environment = env.Environment(users_python(arguments), arguments.comfyui)
    with users_server(environment, arguments.comfyui_arguments) as server:
        run(server.url, graph, arguments.output, server.check)


def run(url: str, graph: dict, output: Path, check=lambda: None):
    import asyncio

    from headless.client import GraphFailed, run_graph

    try:
        result = asyncio.run(run_graph(url, graph, output, check))
    except GraphFailed as error:
        raise SystemExit(str(error)) from None
    for title, text in result.texts:
        print(f"{title}:\n{textwrap.indent(text.strip(), '  ')}")
    for summary in result.summaries:
        print(f"Radial attention: {summary['text']}")
    if not any(node["class_type"] == NODE for node in graph.values()):
        print(f"Radial attention: the workflow has no {NODE}")
    elif not result.summaries:
        print("Radial attention: no sampler ran (the server had the result already)")
    for file in result.files:
        print(f"Output: {file.resolve()}")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit("Stopped.") from None
