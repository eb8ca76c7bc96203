"""Processes of a test: started, watched, and ended with it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.command import ending
from tests.executor.runs import Place

PATIENCE_S = 60.0  # decides nothing: only how long a broken test hangs


def running(
    place: Place, *functions: str
) -> contextlib.AbstractContextManager[subprocess.Popen[str]]:
    """Run actions in another process, which is killed at the block's end if it still runs."""
    return ending(
        subprocess.Popen(
            [sys.executable, "-m", "tests.executor.runs", str(place.root), *functions],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    )


def answer(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Wait for a process and return what it printed."""
    out, err = process.communicate(timeout=PATIENCE_S)
    if not out:
        raise AssertionError(err)
    found: dict[str, Any] = json.loads(out)
    return found


def until(condition: Callable[[], object], what: str) -> None:
    """Wait until *condition* holds."""
    for _ in range(int(PATIENCE_S / 0.01)):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError(f"waited in vain until {what}")


def is_running(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def end(pid: int, number: int = signal.SIGKILL) -> None:
    """Send a signal to a process."""
    os.kill(pid, number)
