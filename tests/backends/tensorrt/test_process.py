"""A toolchain's process: nothing of it is left, however it ends and whoever interrupts."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from orchestrator.backends.tensorrt.failures import ToolchainError
from orchestrator.backends.tensorrt.process import Process, Watch, Write
from orchestrator.backends.tensorrt.toolchain import Toolchain, call

FAR = Path(__file__).parent / "data" / "far_worker.py"
PIPE = Toolchain(name="pipe", command=(sys.executable,), transport="pipe")


def quiet(write: Write) -> None:
    """Feed nothing."""


def started(directory: Path, script: str, lines: list[str] | None = None) -> Process:
    """Start a shell with *script*; what it says goes to *lines*."""
    log = [] if lines is None else lines
    process = Process(name="t", program="sh", directory=directory, watch=Watch(log=log.append))
    process.start(["sh", "-c", script], quiet)
    return process


def alive(pid: int) -> bool:
    """Return whether *pid* runs; a zombie does not."""
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def held() -> tuple[list[str], int]:
    """Return the descriptors that are open here, and the number of threads."""
    return sorted(path.name for path in Path("/proc/self/fd").iterdir()), threading.active_count()


def test_what_goes_wrong_in_feeding_ends_the_wait(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="leads out of the directory"):
        call(PIPE, {"op": "none"}, tmp_path, files={"../x": FAR}, watch=Watch(timeout_s=60))


def test_no_thread_to_feed_it_leaves_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    process = Process(name="t", program="sh", directory=tmp_path, watch=Watch())
    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        process.start(["cat"], quiet)
    process.stop()
    assert process.process is not None
    assert process.process.returncode == 0


def test_an_interrupted_end_is_an_end(tmp_path: Path) -> None:
    script = "cat >/dev/null; kill -INT $PPID; exec sleep 1000"  # begins when stdin is closed
    process = started(tmp_path, script)
    with pytest.raises(KeyboardInterrupt):
        process.stop()
    process.stop()
    assert process.process is not None
    assert process.process.returncode == -signal.SIGKILL


def test_a_stranger_that_holds_stdin_holds_up_nobody(tmp_path: Path) -> None:
    code = (
        "import os, time\npid = os.fork()\nif pid == 0:\n    os.setsid()\n    time.sleep(1000)\n"
        "print(pid, flush=True)"
    )
    lines: list[str] = []
    process = Process(name="t", program="py", directory=tmp_path, watch=Watch(log=lines.append))

    def feed(write: Write) -> None:
        while True:
            write(bytes(1 << 20))

    process.start([sys.executable, "-c", code], feed)
    try:
        process.listen()
        process.stop()
    finally:
        os.kill(int(lines[0]), signal.SIGKILL)
    assert process.feeder is not None
    assert not process.feeder.is_alive()
    assert process.process is not None
    for stream in (process.process.stdin, process.process.stdout, process.process.stderr):
        assert stream is not None
        assert stream.closed


def test_what_it_left_in_its_group_ends_before_its_number_is_free(tmp_path: Path) -> None:
    lines: list[str] = []
    process = started(tmp_path, "sleep 1000 & echo $!", lines)
    process.listen()
    popen = process.process
    assert popen is not None
    reaped = popen.returncode is not None
    process.stop()
    assert popen.returncode == 0
    assert not reaped, "its group's number may be somebody else's by the time it is killed"
    deadline = time.monotonic() + 60
    while alive(int(lines[0])):
        assert time.monotonic() < deadline, "what it started lives on"
        time.sleep(0.02)


def test_errors_without_line_ends_are_heard(tmp_path: Path) -> None:
    lines: list[str] = []
    script = "printf 'ten\\rtwenty\\r\\n' >&2; yes | tr -d '\\n' | head -c 200000 >&2"
    process = started(tmp_path, script, lines)
    process.listen()
    process.stop()
    assert lines[:2] == ["ten", "twenty"]
    assert "".join(lines[2:]) == "y" * 200000
    assert len(lines) > 3


@pytest.mark.parametrize("toolchain", [Toolchain(), PIPE], ids=["directory", "pipe"])
def test_calls_leave_no_descriptor_and_no_thread(toolchain: Toolchain, tmp_path: Path) -> None:
    before, late = held(), Watch(timeout_s=0.1)
    call(toolchain, {"op": "none"}, tmp_path, worker=FAR)
    for request in ({"op": "refuse", "result": {"kind": "bug"}}, {"op": "exit", "code": 3}):
        with pytest.raises(ToolchainError):
            call(toolchain, request, tmp_path, worker=FAR)
    with pytest.raises(ToolchainError, match="took longer"):
        call(toolchain, {"op": "sleep", "seconds": 600}, tmp_path, worker=FAR, watch=late)
    assert held() == before
