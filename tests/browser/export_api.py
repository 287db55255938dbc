"""Rewrites workflows/api/*.json from workflows/*.json, exported by ComfyUI's own page.

Edit a workflow in ComfyUI, save it over workflows/NAME.json, then, in the Python of the tests
(~/.cache/radial-attention/*/venv):

python tests/browser/export_api.py            all of them
python tests/browser/export_api.py NAME ...   some
"""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "workflows"))

from frontend import chromium, comfyui_page  # noqa: E402
from headless.environment import ensure_environment  # noqa: E402
from headless.server import standin_server  # noqa: E402
from person import complaints, open_file, prompt_on  # noqa: E402
from run import stand_in_models  # noqa: E402

WIDTH = 100


def main():
    names = sys.argv[1:] or sorted(path.stem for path in (ROOT / "workflows").glob("*.json"))
    files = [ROOT / f"workflows/{name}.json" for name in names]
    if missing := [str(path) for path in files if not path.is_file()]:
        raise SystemExit(f"There is no {', '.join(missing)}\n{__doc__}")
    environment = ensure_environment()
    with (
        standin_server(environment, stand_in_models(environment)) as server,
        chromium() as browser,
        comfyui_page(browser, server.url) as page,
    ):
        definitions = page.request.get(f"{server.url}/object_info").json()
        for path in files:
            open_file(page, json.loads(path.read_text(encoding="utf-8")))
            if wrong := complaints(page):
                raise SystemExit(f"{path.name}: {'; '.join(wrong)}")
            graph = prompt_on(page)
            twin = ROOT / "workflows/api" / path.name
            if twin.exists() and json.loads(twin.read_text(encoding="utf-8")) == graph:
                print(f"{path.name}: unchanged")
                continue
            nodes = {i: in_order(graph[i], definitions) for i in sorted(graph, key=number)}
            twin.write_text(f"{as_json(nodes)}\n", encoding="utf-8")
            print(f"{path.name}: written")


def number(node: str) -> tuple:
    """A sort key for ids: "2" before "10", and "5:3", in a subgraph, after "5"."""
    return tuple(int(part) for part in node.split(":"))


def in_order(node: dict, definitions: dict) -> dict:
    """A node in a readable order: type first, inputs as on the node, floats with a point."""
    known = definitions[node["class_type"]]["input"]
    known = {**known.get("required", {}), **known.get("optional", {})}
    names = [*(name for name in known if name in node["inputs"]), *node["inputs"]]
    inputs = {name: node["inputs"][name] for name in names}
    for name, value in inputs.items():
        if name in known and known[name][0] == "FLOAT" and isinstance(value, int):
            inputs[name] = float(value)
    return {"class_type": node["class_type"], "inputs": inputs, "_meta": node["_meta"]}


def as_json(value, indent: int = 0, before: int = 0) -> str:
    """JSON with each object on one line if it fits. before: characters already on its line."""
    flat = json.dumps(value, ensure_ascii=False)
    if not isinstance(value, dict) or not value or (indent and before + len(flat) <= WIDTH):
        return flat
    pad = " " * (indent + 2)
    lines = []
    for name, each in value.items():
        key = f"{pad}{json.dumps(name)}: "
        lines.append(key + as_json(each, indent + 2, len(key) + 1))
    return "{\n" + ",\n".join(lines) + "\n" + " " * indent + "}"


if __name__ == "__main__":
    main()
