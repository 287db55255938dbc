"""Messages to ComfyUI's page, or to the script that queued a graph."""

import sys


def send(event: str, data: dict) -> None:
    module = sys.modules.get("server")  # ComfyUI's; not there when it is used as a library
    server = getattr(getattr(module, "PromptServer", None), "instance", None)
    if server is not None:
        server.send_sync(event, data, server.client_id)
