"""What the environment says the stand-in is, and which faults it has.

Faults: ``unsupported:OPERATOR`` (the parser refuses it), ``chatty:N`` (it gives N warnings),
``crash_in_build`` (SIGSEGV), ``oom``, ``none_built`` (no kernel found), ``silent_tf32`` (every
kernel is TF32, whatever was asked for),
``slow:SECONDS`` and ``hold:FILE`` (a build waits that long, or until FILE is there),
``device_lost`` (a run fails), ``wrong`` (a run's first output is doubled), ``no_driver``.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from orchestrator.backends.tensorrt.worker import parse_version

VERSION: Final = os.environ.get("STANDIN_VERSION", "8.6.1")
NUMBERS: Final = parse_version(VERSION)
_DEVICE: Final[Mapping[str, Any]] = {
    "name": "Stand-in GPU",
    "compute_capability": "9.0",
    "uuid": "GPU-5741d177-0000-4000-8000-000000000001",
    "sms": 132,
    "memory_bytes": 8 << 30,
}


_used = [0]


def devices() -> list[dict[str, Any]]:
    """Return the properties of each device that CUDA_VISIBLE_DEVICES lets be seen, in its order."""
    found = json.loads(os.environ.get("STANDIN_DEVICE") or "{}")
    every = [{**_DEVICE, **one} for one in (found if isinstance(found, list) else [found])]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return every
    named = {str(number): one for number, one in enumerate(every)}
    named |= {one["uuid"]: one for one in every}
    words = itertools.takewhile(lambda word: word in named, visible.split(","))
    return [named[word] for word in words]


def use(number: int) -> None:
    """Make a device the one that :func:`device` returns."""
    _used[0] = number  # CUDA has one for each thread; the worker sets it once


def device() -> dict[str, Any]:
    """Return the properties of the device that is used."""
    return devices()[_used[0]]


def fault(name: str) -> str | None:
    """Return the argument of a fault that was asked for (empty without one); None when not."""
    for item in os.environ.get("STANDIN_FAULT", "").split(","):
        word, _, argument = item.strip().partition(":")
        if word == name:
            return argument
    return None


def count(event: str) -> None:
    """Append a line to the file that counts events over all processes."""
    path = os.environ.get("STANDIN_COUNT")
    if path:
        line = json.dumps({"event": event, "op": _operation(), "pid": os.getpid()}) + "\n"
        with Path(path).open("a", encoding="utf-8") as file:  # one short write: lines stay whole
            file.write(line)


def _operation() -> str:
    """Return what the worker was asked for; empty where the request came through a pipe."""
    try:
        request = Path(sys.argv[1], "request.json").read_text(encoding="utf-8")
        return str(json.loads(request)["op"])
    except (OSError, IndexError):
        return ""


def linger() -> None:
    """Wait as long as a slow build takes."""
    time.sleep(float(fault("slow") or 0))
    gate = fault("hold")
    for _ in range(6000):  # bounded, so that a broken test leaves nothing behind
        if not gate or Path(gate).exists():
            return
        time.sleep(0.02)
