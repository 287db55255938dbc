"""Finds a Chromium to drive. Standard library only: tests/run.py needs it before the set-up."""

import os
import shutil
from pathlib import Path

NAMES = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "chrome",
    "microsoft-edge",
    "msedge",
)
ELSEWHERE = (  # these are not on the PATH of their systems
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "/Applications/Microsoft Edge.app/Contents/MacOS/Microsoft Edge",
    r"C:\Program Files\Google\Chrome\Application\chrome.exe",
    r"C:\Program Files (x86)\Google\Chrome\Application\chrome.exe",
    r"C:\Program Files (x86)\Microsoft\Edge\Application\msedge.exe",
)
HOW_TO_GET_ONE = (
    "no Chromium, Chrome or Edge found. Install one (Debian and Ubuntu: apt install chromium), or "
    "name yours in the environment variable CHROMIUM"
)


def find_chromium() -> Path | None:
    """The program named by CHROMIUM, else the first one that is installed, else None.

    Raises SystemExit if CHROMIUM names no program.
    """
    if chosen := os.environ.get("CHROMIUM"):
        if program := shutil.which(os.path.expanduser(chosen)):
            return Path(program)
        raise SystemExit(f"CHROMIUM: there is no program {chosen}")
    programs = (shutil.which(name) for name in (*NAMES, *ELSEWHERE))
    return next((Path(program) for program in programs if program), None)
