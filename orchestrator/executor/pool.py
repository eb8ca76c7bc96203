"""The parent's side of the warm server: start it when first needed, submit, poll, stop."""

from __future__ import annotations

import array
import contextlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from orchestrator.errors import WorkerLostError
from orchestrator.executor.server import MESSAGE_BYTES
from orchestrator.store.store import explained

# The bytes of a sum depend on how many threads add; and a process with threads must not fork.
_ONE_THREAD: Final = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)
_END_TIMEOUT_S: Final = 5.0
_START = "import sys; from orchestrator.executor.server import main; main(int(sys.argv[1]))"


@dataclass(frozen=True, kw_only=True)
class Started:
    """A worker was forked; what it needs had been imported before.

    Attributes:
        at: When, in seconds of the monotonic clock.
    """

    id: int
    at: float


@dataclass(frozen=True, kw_only=True)
class Progressed:
    """A running worker reported progress (0..1)."""

    id: int
    done: float
    text: str


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A worker ended.

    Attributes:
        code: Its exit code, negative for a signal.
        peak_bytes: The peak resident memory of it, or of one process that it waited for. Pages that
            it shares with the server count, too.
        at: When, in seconds of the monotonic clock.
    """

    id: int
    code: int
    peak_bytes: int
    at: float


Event = Started | Progressed | Ended


class Pool:
    """Workers forked from one warm server."""

    def __init__(self, base: Path, scratch: Path, search_path: Sequence[str]) -> None:
        """Prepare; nothing is started before the first :meth:`submit` or :meth:`preload`.

        Args:
            base: Working directory of the workers.
            scratch: Where the server's own log goes.
            search_path: ``sys.path`` of the workers.
        """
        self._base = base
        self._log = scratch / "server.log"
        self._search_path = list(search_path)
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: socket.socket | None = None
        self._selector = selectors.DefaultSelector()
        self._pids: dict[int, int] = {}
        self._pipes: dict[int, int] = {}
        self._next = 0

    def preload(self, modules: Sequence[str]) -> None:
        """Let the server import *modules* while it has nothing else to do."""
        self._send({"op": "preload", "modules": list(modules)})

    def submit(self, directory: Path, needs: Sequence[str], locks: Sequence[int]) -> int:
        """Run the request in *directory* in a fresh process that also holds *locks*.

        Returns:
            The worker's number, which its events carry.

        Raises:
            WorkerLostError: the server is gone, or cannot be started.
            StoreError: it cannot write a log.
        """
        self._next += 1
        read, write = os.pipe()
        try:
            request = {
                "op": "run",
                "id": self._next,
                "directory": str(directory),
                "needs": list(needs),
            }
            self._send(request, [write, *locks])
        except BaseException:
            os.close(read)
            raise
        finally:
            os.close(write)
        os.set_blocking(read, False)
        self._pipes[self._next] = read
        self._selector.register(read, selectors.EVENT_READ, self._next)
        return self._next

    def poll(self, timeout_s: float | None) -> list[Event]:
        """Wait for events at most *timeout_s* seconds (None: as long as it takes).

        Raises:
            WorkerLostError: the server ended unexpectedly.
        """
        found: list[Event] = []
        for key, _ in self._selector.select(timeout_s):
            if key.data == "server":
                found += self._from_server()
            else:
                found += self._progress(key.data, key.fd)
        return found

    def kill(self, worker: int) -> None:
        """End a worker and whatever it started."""
        pid = self._pids.get(worker)
        if pid is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)

    def stop(self) -> None:
        """End all workers and the server."""
        for worker in list(self._pids):
            self.kill(worker)
        self._forget_server()
        self._selector.close()

    def _forget_server(self) -> None:
        """Let go of the server and of what is known of its workers; a later request starts anew."""
        if self._connection is not None:
            self._selector.unregister(self._connection)
            # The server ends now. It may have started workers that we have not heard of.
            self._connection.settimeout(_END_TIMEOUT_S)
            with contextlib.suppress(OSError):
                self._connection.shutdown(socket.SHUT_WR)
                while data := self._connection.recv(MESSAGE_BYTES):
                    message = json.loads(data)
                    if message["op"] == "started":
                        self._pids[message["id"]] = message["pid"]
                        self.kill(message["id"])
            self._connection.close()
            self._connection = None
        if self._process is not None:
            try:
                self._process.wait(_END_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        for descriptor in self._pipes.values():
            self._selector.unregister(descriptor)
            os.close(descriptor)
        self._pipes.clear()
        self._pids.clear()

    def _start(self) -> socket.socket:
        with explained(self._log.parent):
            log = self._log.open("wb")
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, log:
            try:
                # -P: nothing in the working directory may shadow a library that the server imports.
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-c", _START, str(theirs.fileno())],
                    pass_fds=(theirs.fileno(),),
                    env={**os.environ, **dict.fromkeys(_ONE_THREAD, "1")},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=self._base,
                    start_new_session=True,
                )
            except OSError as exc:
                ours.close()
                text = f"the worker server cannot be started: {exc.strerror}"
                hint = "this machine may have too many processes, or too little memory"
                raise WorkerLostError(text, hint=hint) from exc
        self._selector.register(ours, selectors.EVENT_READ, "server")
        return ours

    def _send(self, message: dict[str, Any], descriptors: Sequence[int] = ()) -> None:
        data = json.dumps(message).encode()
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
        try:
            if self._connection is None:
                self._connection = self._start()
                self._connection.send(json.dumps({"path": self._search_path}).encode())
            self._connection.sendmsg([data], rights if descriptors else [])
        except (BrokenPipeError, ConnectionResetError) as exc:
            raise self._lost() from exc

    def _from_server(self) -> list[Event]:
        if self._connection is None:
            return []
        try:
            data = self._connection.recv(MESSAGE_BYTES)
        except ConnectionResetError:
            data = b""
        if not data:
            raise self._lost()
        message = json.loads(data)
        if message["op"] == "started":
            self._pids[message["id"]] = message["pid"]
            return [Started(id=message["id"], at=message["at"])]
        worker = message["id"]
        self._pids.pop(worker, None)
        descriptor = self._pipes.pop(worker, None)
        if descriptor is not None:
            self._selector.unregister(descriptor)
            os.close(descriptor)
        code, peak_bytes = message["code"], message["peak_bytes"]
        return [Ended(id=worker, code=code, peak_bytes=peak_bytes, at=message["at"])]

    def _progress(self, worker: int, descriptor: int) -> list[Event]:
        if worker not in self._pipes:
            return []
        try:
            data = os.read(descriptor, MESSAGE_BYTES)
        except BlockingIOError:
            return []
        if not data:  # closed: the end itself is reported by the server
            self._selector.unregister(descriptor)
            os.close(descriptor)
            self._pipes.pop(worker)
            return []
        lines = [line for line in data.decode(errors="replace").splitlines() if line]
        try:
            last = json.loads(lines[-1])
            return [Progressed(id=worker, done=float(last["done"]), text=str(last["text"]))]
        except (ValueError, KeyError, IndexError, TypeError):
            return []  # a torn line: the next one will be whole

    def _lost(self) -> WorkerLostError:
        for worker in list(self._pids):
            self.kill(worker)  # nobody would tell us how they end
        self._forget_server()
        text = self._log.read_text(errors="replace").strip().splitlines()
        return WorkerLostError(
            "the worker server ended unexpectedly" + (f": {text[-1]}" if text else ""),
            hint="run the same command again: what was finished is kept",
        )
