"""The warm server: imports the heavy libraries once and forks a fresh process per action.

It is single-threaded, never runs a parallel region and never touches CUDA: a child forked after
either would hang. It talks over one ``SOCK_SEQPACKET`` socket, JSON both ways; descriptors (event
pipe, locks) come with a request and go to the child alone. When the socket closes it ends its
workers and itself; should it be killed first, workers finish on their own, holding their locks.
"""

from __future__ import annotations

import array
import contextlib
import errno
import gc
import importlib
import json
import os
import select
import selectors
import signal
import socket
import sys
import time
import traceback
from pathlib import Path
from typing import Any, Final

MESSAGE_BYTES: Final = 1 << 16
MAX_DESCRIPTORS: Final = 8
LOG_NAME: Final = "log.txt"
_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Server:
    """The loop: requests in, forked workers, exit statuses out."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._selector = selectors.DefaultSelector()
        self._selector.register(connection, selectors.EVENT_READ, None)
        self._workers: dict[int, tuple[int, int]] = {}
        self._preload: list[str] = []

    def serve(self) -> None:
        """Serve until the parent closes the socket; workers end with it: nobody would store."""
        try:
            self._serve()
        finally:
            for _, pid in self._workers.values():
                _end_group(pid)

    def _serve(self) -> None:
        while True:
            # With imports left to do, only look; without, sleep until something happens.
            for key, _ in self._selector.select(0 if self._preload else None):
                if key.fileobj is self._connection:
                    if not self._receive():
                        return
                else:
                    self._reap(key.fd)
            if self._preload:
                _import(self._preload.pop(0))

    def _receive(self) -> bool:
        data, descriptors = _receive(self._connection)
        if not data:
            return False
        request = json.loads(data)
        if request["op"] == "preload":
            self._preload += [name for name in request["modules"] if name not in sys.modules]
        else:
            for name in request["needs"]:
                _import(name)
            if self._parent_gone():
                return False  # nobody would take the result
            self._fork(request, descriptors)
        return True

    def _parent_gone(self) -> bool:
        poll = select.poll()
        poll.register(self._connection, select.POLLRDHUP)
        return bool(poll.poll(0))

    def _fork(self, request: dict[str, Any], descriptors: list[int]) -> None:
        gc.freeze()
        pid = os.fork()
        if pid == 0:
            self._become_worker(request, descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        with contextlib.suppress(OSError):  # the child does the same; whoever is first
            os.setpgid(pid, pid)
        watch = os.pidfd_open(pid)
        self._workers[watch] = (request["id"], pid)
        self._selector.register(watch, selectors.EVENT_READ, None)
        self._tell("started", request["id"], pid=pid)

    def _become_worker(self, request: dict[str, Any], descriptors: list[int]) -> None:
        code = 70
        try:
            os.setpgid(0, 0)  # killed as one group, with whatever it starts
            _offer_itself()
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            self._selector.close()
            self._connection.close()
            for watch in self._workers:
                os.close(watch)
            _redirect(os.path.join(request["directory"], LOG_NAME))  # noqa: PTH118  # cheap in the child
            from orchestrator.executor import worker

            code = worker.main(request["directory"], descriptors[0], descriptors[1:])
        except OSError as exc:
            code = os.EX_IOERR if exc.errno in _FULL else code
            traceback.print_exc()
        except BaseException:  # noqa: BLE001  # whatever it was, the child must end here
            traceback.print_exc()
        finally:
            with contextlib.suppress(OSError, ValueError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    def _reap(self, watch: int) -> None:
        identity, pid = self._workers.pop(watch)
        self._selector.unregister(watch)
        os.close(watch)
        _end_group(pid)  # what it started holds its locks and the machine
        _, status, usage = os.wait4(pid, 0)
        code, peak_bytes = os.waitstatus_to_exitcode(status), usage.ru_maxrss * 1024
        self._tell("ended", identity, code=code, peak_bytes=peak_bytes)

    def _tell(self, what: str, worker: int, **more: int) -> None:
        # The parent may be busy for a while: it is told when this was, by a clock that both have.
        message = {"op": what, "id": worker, "at": time.monotonic(), **more}
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._connection.send(json.dumps(message).encode())


def _offer_itself() -> None:
    """Let the kernel, when memory runs out, kill this worker before the server and the parent."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500")


def _end_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def main(descriptor: int) -> None:
    """Run the server on an inherited socket; the first message is the module search path."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C ends
    connection = socket.socket(fileno=descriptor)
    hello = json.loads(connection.recv(MESSAGE_BYTES))
    sys.path[:] = hello["path"]
    Server(connection).serve()


def _import(name: str) -> None:
    """Import a library; the stage that needs it will report a failure in the user's terms."""
    try:
        importlib.import_module(name)
    except Exception:  # noqa: BLE001  # any import may fail in any way
        print(f"preloading {name} failed:", file=sys.stderr)
        traceback.print_exc()


def _receive(connection: socket.socket) -> tuple[bytes, list[int]]:
    size = array.array("i").itemsize
    data, ancillary, _, _ = connection.recvmsg(
        MESSAGE_BYTES, socket.CMSG_SPACE(MAX_DESCRIPTORS * size)
    )
    descriptors = array.array("i")
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(payload[: len(payload) - len(payload) % size])
    return data, list(descriptors)


def _redirect(log_path: str) -> None:
    log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.close(log)
    os.close(null)
