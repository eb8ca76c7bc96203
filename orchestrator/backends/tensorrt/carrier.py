"""The first thing that runs in a toolchain's interpreter: starts the worker and watches over it.

Sent as text over stdin by :mod:`orchestrator.backends.tensorrt.transport`, never imported there, so
it keeps to Python 3.8 and the standard library. It reads a JSON line (``source_bytes``, ``name``,
``arguments``, ``files``), the worker's source, and, with ``files``, frames (8 hexadecimal digits of
length, then the bytes; length 0 ends) that become the worker's stdin. The worker runs in a forked
child; this process says how the child ended, which neither ssh nor docker would, and ends the child
when stdin closes: whoever asked is gone then, and no build may go on unseen. With
``files`` the child's temporary directory is one that this process made, and removes when the child
has ended, however it ended.
"""

from __future__ import annotations

import sys

if sys.path and not sys.path[0]:
    del sys.path[0]  # the working directory: nothing there may shadow a library

import faulthandler
import json
import os
import select
import shutil
import signal
import tempfile
from types import ModuleType
from typing import NamedTuple

GONE = 98  #: Exit code: stdin closed before the worker had ended.


class Child(NamedTuple):
    """The worker's process, and the directory that ends with it (empty: none)."""

    pid: int
    scratch: str

    def wait(self) -> int:
        """Wait until it has ended, remove its directory, and return its status."""
        _, status = os.waitpid(self.pid, 0)
        if self.scratch:
            shutil.rmtree(self.scratch, ignore_errors=True)
        return status


def main() -> None:
    """Run the worker that stdin brings, in a child; never returns in the parent."""
    header = json.loads(_read_line())
    source = _read(header["source_bytes"])
    _tell(
        event="started",
        executable=sys.executable,
        python=".".join(str(part) for part in sys.version_info[:3]),
        path=[entry for entry in sys.path if entry],
    )
    scratch = _scratch() if header["files"] else ""
    ended_read, ended_write = os.pipe()
    feed_read, feed_write = os.pipe()
    pid = os.fork()
    if pid:
        os.close(ended_write)  # the child's copy closes when the child ends, however it ends
        os.close(feed_read)
        _watch(Child(pid, scratch), ended_read, feed_write, header["files"])
    os.close(ended_read)
    os.close(feed_write)
    os.dup2(feed_read, 0)
    os.close(feed_read)
    if scratch:
        os.environ["TMPDIR"] = tempfile.tempdir = scratch
    faulthandler.enable()
    sys.argv = [header["name"], *header["arguments"]]
    module = ModuleType("__main__")
    module.__file__ = header["name"]
    sys.modules["__main__"] = module
    exec(compile(source, header["name"], "exec"), module.__dict__)  # noqa: S102


def _scratch() -> str:
    try:
        return tempfile.mkdtemp(prefix="orchestrate-worker-")
    except OSError:  # the worker meets the same, and can say so
        return ""


def _watch(child: Child, ended: int, feed: int, files: bool) -> None:
    while files:
        count = int(_read(8, child), 16)
        if not count:
            break
        data = _read(count, child)
        while data and feed >= 0:
            try:
                data = data[os.write(feed, data) :]
            except BrokenPipeError:  # the child has ended: go on reading, so that nobody waits
                os.close(feed)
                feed = -1
    if feed >= 0:
        os.close(feed)
    while True:
        ready, _, _ = select.select([0, ended], [], [])
        if ended in ready:
            break
        if not os.read(0, 4096):
            _give_up(child)
    status = child.wait()
    code = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
    _tell(event="ended", code=code)
    os._exit(code if code >= 0 else 128 - code)


def _read(count: int, child: Child | None = None) -> bytes:
    parts = []
    while count:
        part = os.read(0, min(count, 1 << 20))
        if not part:
            _give_up(child)
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def _read_line() -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        line += _read(1)
    return line


def _give_up(child: Child | None) -> None:
    if child:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()  # only now are the GPU's memory and the locks free
    os._exit(GONE)


def _tell(**event: object) -> None:
    data = b"\n" + json.dumps(event).encode() + b"\n"  # a banner before it may lack its line end
    while data:
        data = data[os.write(1, data) :]


if __name__ == "__main__":
    if sys.version_info < (3, 8):  # noqa: UP036  # it runs where the user says
        sys.exit("this is Python %d.%d, too old: 3.8 is needed" % sys.version_info[:2])  # noqa: UP031
    main()
