"""Memory of the cards and of the processes, and what links the cards."""

import os
import subprocess
from pathlib import Path

WORKER = "nodes/cards/"  # in the command of another card's process


def card_gib(cards: int) -> list[float]:
    """GiB in use on each of the first cards, by whichever process; they are thought to be ours."""
    query = ["--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    used = _nvidia_smi(*query).split()
    return [round(int(mib) / 1024, 2) for mib in used[:cards]]


def links() -> dict[str, str]:
    """How the first two cards are linked, as `nvidia-smi topo -m` has it: {"link": "NV18"}."""
    try:
        lines = _nvidia_smi("topo", "-m").splitlines()
        row = next(line.split() for line in lines if line.startswith("GPU0"))
    except (OSError, subprocess.CalledProcessError, StopIteration):
        return {}
    return {"link": row[2]} if len(row) > 2 else {}


def host_gib() -> list[float]:
    """Resident memory of this process, then of the processes of the other cards."""
    return [round(_resident(pid) / 2**30, 2) for pid in (os.getpid(), *_workers())]


def _workers() -> list[int]:
    """The processes that this one started for other cards, in the order in which it did."""
    own, found = os.getpid(), []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
            command = (folder / "cmdline").read_text()
        except OSError:  # it has ended
            continue
        if int(parent) == own and WORKER in command:
            found.append(int(folder.name))
    return sorted(found)


def _resident(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _nvidia_smi(*arguments: str) -> str:
    command = ["nvidia-smi", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
