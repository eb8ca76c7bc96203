"""One toolchain process: fed, listened to, and ended for certain.

It gets a session of its own; its stdin stays open as long as we want the result, and the carrier
there ends the worker as soon as stdin closes, so whoever kills us ends the work as well, on
whichever machine it is. Descriptors of locks are handed on: a key stays taken until the toolchain
has really ended.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import selectors
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from orchestrator.backends.tensorrt.failures import Ended, explain, not_started, timed_out
from orchestrator.backends.tensorrt.transport import RESULT, Lines, receive

Json = dict[str, Any]
#: Writes all of its argument to the toolchain's stdin.
Write = Callable[[bytes], None]

_KEPT_LINES: Final = 200
_READ_BYTES: Final = 1 << 20
_LINE_BYTES: Final = 1 << 16  # of stderr; a longer line is shown in parts
_POLL_S: Final = 0.5
_LOOK_S: Final = 0.01
_GRACE_S: Final = 5.0  # for what still runs when the worker has ended: ssh, docker, a wrapper
_DRAIN_S: Final = 1.0  # for what a process that has ended left in its streams
_ARCHIVE: Final = ".received.tar"


def _quiet_progress(done: float, text: str = "") -> None:
    """Show no progress."""


def _quiet_log(text: str) -> None:
    """Drop a line."""


@dataclass(frozen=True, kw_only=True)
class Watch:
    """Who hears of a running toolchain, and how long it may take.

    Attributes:
        log: Takes each line that TensorRT or the toolchain says.
        progress: Takes how far it is, in 0..1, and at what.
        locks: Descriptors that the toolchain holds as well.
        timeout_s: When it is ended; None: never.
    """

    log: Callable[[str], None] = _quiet_log
    progress: Callable[[float, str], None] = _quiet_progress
    locks: Sequence[int] = ()
    timeout_s: float | None = None


@dataclass
class Process:
    """One process of a toolchain: started, listened to, and ended for certain.

    Attributes:
        name: The toolchain's name.
        program: Its program, see :class:`failures.Ended`.
        directory: Where its result will be.
        watch: Who hears of it.
        interpreter: What the carrier told of the Python there, once it began.
        worker_code: How the worker ended, once the carrier told.
    """

    name: str
    program: str
    directory: Path
    watch: Watch
    interpreter: Json | None = None
    worker_code: int | None = None
    errors: deque[str] = field(default_factory=lambda: deque(maxlen=_KEPT_LINES))
    others: deque[str] = field(default_factory=lambda: deque(maxlen=_KEPT_LINES))
    process: subprocess.Popen[bytes] | None = None
    feeder: threading.Thread | None = None
    failure: Exception | None = None
    stopping: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.archive = self.directory / _ARCHIVE
        self.archive.unlink(missing_ok=True)
        self.lines = Lines(self.archive)
        self.begun = time.monotonic()

    def start(self, line: Sequence[str], feed: Callable[[Write], None]) -> None:
        """Start *line*, and a thread in which *feed* writes to its stdin, which stays open.

        Raises:
            ToolchainError: the operating system would not start it.
        """
        try:
            self.process = subprocess.Popen(
                line,
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=tuple(self.watch.locks),
                start_new_session=True,  # no terminal to ask at; one group to kill
            )
        except OSError as exc:
            raise not_started(self.name, line[0], exc) from exc
        assert self.process.stdin is not None
        os.set_blocking(self.process.stdin.fileno(), False)  # our end of the pipe: see _write
        feeder = threading.Thread(
            target=self._feed, args=(feed,), name="toolchain-stdin", daemon=True
        )
        feeder.start()
        self.feeder = feeder

    def _feed(self, feed: Callable[[Write], None]) -> None:
        try:
            feed(self._write)
        except BrokenPipeError:
            pass  # it has ended; how, its exit code says
        except Exception as exc:  # noqa: BLE001  # the caller hears of it: else both would wait
            self.failure = exc

    def _write(self, data: bytes) -> None:
        """Write all of *data*, unless we stop: whoever inherited the other end may never read."""
        assert self.process is not None
        assert self.process.stdin is not None
        descriptor = self.process.stdin.fileno()
        poll = select.poll()
        poll.register(descriptor, select.POLLOUT)
        view = memoryview(data)
        while view:
            if self.stopping.is_set():
                raise BrokenPipeError
            if poll.poll(_POLL_S * 1e3):
                with contextlib.suppress(BlockingIOError):
                    view = view[os.write(descriptor, view) :]

    def listen(self) -> None:
        """Take events and lines until the process has ended.

        Raises:
            ToolchainError: the time is up.
            OSError: the disk is full.
            Exception: what *feed* raised, such as OSError: a file of the request cannot be read.
        """
        process = self.process
        assert process is not None
        assert process.stdout is not None
        assert process.stderr is not None
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ, self._stdout())
            selector.register(process.stderr, selectors.EVENT_READ, self._stderr())
            closing: float | None = None
            while selector.get_map():
                for key, _ in selector.select(self._patience(closing)):
                    data = os.read(key.fd, _READ_BYTES)
                    key.data(data)
                    if not data:
                        selector.unregister(key.fileobj)
                if self.failure is not None:
                    raise self.failure
                if closing is None and self._over():
                    closing = time.monotonic() + _DRAIN_S
                elif closing is None and self.worker_code is not None:
                    closing = time.monotonic() + _GRACE_S
                if closing is not None and time.monotonic() > closing:
                    break  # something in the background holds the streams open
                self._check_time()
        self._wait(_GRACE_S)

    def stop(self) -> None:
        """End what still runs, and let go of everything; safe at any time."""
        process = self.process
        if process is None:
            return
        try:
            if self._release():
                self._wait(_GRACE_S)
        finally:  # whatever interrupts us
            if process.returncode is None:  # it leads a group of its own, see _over
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):  # a driver may hold it for ever
            process.wait(_GRACE_S)
        self._release()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()

    def _release(self) -> bool:
        """Close stdin: the carrier, here or far away, ends its worker then. Return whether it is.

        It stays open while a file that is being sent cannot be read: its number is in use.
        """
        self.stopping.set()
        if self.feeder is not None:
            self.feeder.join(_GRACE_S)
            if self.feeder.is_alive():
                return False
        assert self.process is not None
        assert self.process.stdin is not None
        self.process.stdin.close()
        return True

    def _over(self) -> bool:
        """Whether it has ended; not reaped, so that its group's number stays its own."""
        assert self.process is not None
        if self.process.returncode is not None:
            return True
        look = os.WEXITED | os.WNOHANG | os.WNOWAIT
        try:
            return os.waitid(os.P_PID, self.process.pid, look) is not None
        except ChildProcessError:  # somebody else's handler took it
            return True

    def _wait(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not self._over() and time.monotonic() < end:
            time.sleep(_LOOK_S)

    def result(self) -> Json:
        """Return the result that was left, as it is.

        Raises:
            ToolchainError, WorkerLostError: there is none; see :func:`failures.explain`.
            StageError: what came over the pipe is damaged.
        """
        if self.lines.complete:
            receive(self.archive, self.directory)
        self.archive.unlink(missing_ok=True)
        try:
            result = json.loads((self.directory / RESULT).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise explain(self._ended()) from None
        if not isinstance(result, dict):
            raise explain(self._ended())
        return result

    def _ended(self) -> Ended:
        assert self.process is not None
        code = self.process.returncode
        return Ended(
            name=self.name,
            program=self.program,
            code=-signal.SIGKILL if code is None else code,
            began=self.interpreter is not None,
            worker_code=self.worker_code,
            said=list(self.errors or self.others),
        )

    def _stdout(self) -> Callable[[bytes], None]:
        def take(data: bytes) -> None:
            for found in self.lines.feed(data):
                self._take(found)
            if not data and (rest := self.lines.finish()):
                self._take(rest)

        return take

    def _stderr(self) -> Callable[[bytes], None]:
        rest = b""

        def take(data: bytes) -> None:
            nonlocal rest
            *whole, rest = re.split(rb"[\r\n]", rest + data) if data else (rest, b"")
            if len(rest) > _LINE_BYTES:
                whole, rest = [*whole, rest], b""
            for line in whole:
                text = line.decode(errors="replace").rstrip()
                if text:
                    self.errors.append(text)
                    self.watch.log(text)

        return take

    def _take(self, found: Json | str) -> None:
        if isinstance(found, str):  # a banner, a login script, a library that prints
            self.others.append(found)
            self.watch.log(found)
            return
        match found["event"]:
            case "log":
                severity, text = str(found.get("severity", "info")), str(found.get("text", ""))
                self.watch.log(f"TensorRT {severity}: {text}")
            case "progress":
                self.watch.progress(float(found.get("done", 0)), str(found.get("text", "")))
            case "started":
                self.interpreter = {name: value for name, value in found.items() if name != "event"}
            case "ended":
                self.worker_code = int(found["code"])

    def _patience(self, closing: float | None) -> float:
        ends = [time.monotonic() + _POLL_S]
        if closing is not None:
            ends.append(closing)
        if self.watch.timeout_s is not None and self.worker_code is None:
            ends.append(self.begun + self.watch.timeout_s)
        return max(0.0, min(ends) - time.monotonic())

    def _check_time(self) -> None:
        limit = self.watch.timeout_s
        if limit is not None and self.worker_code is None and self._took() > limit:
            raise timed_out(self.name, limit)

    def _took(self) -> float:
        return time.monotonic() - self.begun
