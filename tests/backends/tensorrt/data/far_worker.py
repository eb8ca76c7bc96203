"""A far side for tests: speaks the worker's protocol and does what the request's ``op`` says.

Like the worker it stands for: Python >= 3.8, one file, ``DIRECTORY`` or ``-`` as its argument.
"""

from __future__ import annotations

import io
import json
import os
import signal
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

SEEN = {
    "tensorrt": "8.6.0",
    "tensorrt_major": 8,
    "cuda_runtime": "12.0",
    "cuda_driver": "13.0",
    "python": "3.10.13",
    "device": {"name": "a device", "uuid": "GPU-1", "sms": 132},
}


def say(**event: Any) -> None:
    os.write(1, json.dumps(event).encode() + b"\n")


def hold(where: Path, op: str, request: dict[str, Any]) -> dict[str, Any]:
    """Things that end otherwise than with a result."""
    (where / "begun").write_text(str(os.getpid()))
    if "begun" in request:  # also where the test can see it, whichever the transport
        Path(request["begun"]).write_text(str(os.getpid()))
    if op == "sleep":
        time.sleep(request["seconds"])
    elif op == "signal":
        os.kill(os.getpid(), getattr(signal, request["name"]))
    elif op == "raise":
        raise RuntimeError(request["text"])
    elif op == "exit":
        sys.exit(request["code"])
    return {"ok": True, "values": {}, "seen": SEEN}


def answer(where: Path, request: dict[str, Any]) -> dict[str, Any]:
    op = request["op"]
    if op == "probe":
        count = Path(request.get("count", os.environ.get("FAR_COUNT", os.devnull)))
        with count.open("a") as file:
            file.write("probe\n")
        if os.environ.get("FAR_MISSING"):
            return {
                "ok": False,
                "kind": "missing",
                "message": "no module named tensorrt",
                "hint": "install TensorRT there",
                "log": [],
            }
        values = {"capabilities": {"precisions": ["fp16"]}, "devices": ["GPU-1"]}
        return {"ok": True, "values": values, "seen": SEEN}
    if op == "copy":  # every file below `from`, to `to`, upside down
        source, target = where / request["from"], where / request["to"]
        for path in sorted(p for p in source.rglob("*") if p.is_file()):
            copied = target / path.relative_to(source)
            copied.parent.mkdir(parents=True, exist_ok=True)
            copied.write_bytes(path.read_bytes()[::-1])
        say(event="log", severity="warning", text="half way")
        say(event="progress", done=0.5, text="copying")
        print("to standard error", file=sys.stderr, flush=True)
        os.write(1, b"no event: a library prints\n")
        values = {"argv": sys.argv[0], "main": __name__, "cwd_first": sys.path[:1]}
        return {"ok": True, "values": values, "seen": SEEN}
    if op == "refuse":
        return {"ok": False, **request["result"]}
    return hold(where, op, request)


def main() -> None:
    if sys.argv[1] != "-":
        where = Path(sys.argv[1])
        request = json.loads((where / "request.json").read_text())
        leave(where, answer(where, request))
        return
    with tempfile.TemporaryDirectory() as temporary:
        where = Path(temporary)
        with tarfile.open(fileobj=sys.stdin.buffer, mode="r|") as tar:
            for member in tar:
                tar.extract(member, temporary)
        sent = {path for path in where.rglob("*") if path.is_file()}
        request = json.loads((where / "request.json").read_text())
        leave(where, answer(where, request))
        back = io.BytesIO()
        with tarfile.open(fileobj=back, mode="w") as tar:
            for path in sorted(p for p in where.rglob("*") if p.is_file() and p not in sent):
                tar.add(path, path.relative_to(where))
            if request.get("escape"):
                tar.add(where / "result.json", "../escaped")
        data = back.getvalue()
        say(event="files", bytes=len(data))
        cut = request.get("cut", 0)
        sys.stdout.buffer.write(data[: len(data) - cut])
        sys.stdout.buffer.flush()


def leave(where: Path, result: dict[str, Any]) -> None:
    temporary = where / ".result.json"
    temporary.write_text(json.dumps(result))
    temporary.replace(where / "result.json")


if __name__ == "__main__":
    main()
