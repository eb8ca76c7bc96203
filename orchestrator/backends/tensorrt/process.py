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

_KEPT_LINES: Final = 200
_READ_BYTES: Final = 1 << 20
_POLL_S: Final = 0.5
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
    failure: OSError | None = None

    def __post_init__(self) -> None:
        self.archive = self.directory / _ARCHIVE
        self.archive.unlink(missing_ok=True)
        self.lines = Lines(self.archive)
        self.begun = time.monotonic()

    def start(self, line: Sequence[str], feed: Callable[[int], None]) -> None:
        """Start *line*, and a thread that lets *feed* write to its stdin, which stays open.

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
        descriptor = self.process.stdin.fileno()

        def run() -> None:
            try:
                feed(descriptor)
            except BrokenPipeError:
                pass  # it has ended; how, its exit code says
            except OSError as exc:
                self.failure = exc  # a file of ours: the caller hears of it

        self.feeder = threading.Thread(target=run, name="toolchain-stdin", daemon=True)
        self.feeder.start()

    def listen(self) -> None:
        """Take events and lines until the process has ended.

        Raises:
            ToolchainError: the time is up.
            OSError: a file of the request cannot be read, or the disk is full.
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
                if closing is None and process.poll() is not None:
                    closing = time.monotonic() + _DRAIN_S
                elif closing is None and self.worker_code is not None:
                    closing = time.monotonic() + _GRACE_S
                if closing is not None and time.monotonic() > closing:
                    break  # something in the background holds the streams open
                self._check_time()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_S)

    def stop(self) -> None:
        """End what still runs, and let go of everything; safe at any time."""
        process, feeder = self.process, self.feeder
        if process is None:
            return
        assert process.stdin is not None
        if feeder is None or not feeder.is_alive():
            process.stdin.close()  # the carrier, here or far away, ends its worker now
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_GRACE_S if process.poll() is None else 0)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)  # it leads a group of its own
        process.wait()
        if feeder is not None:
            feeder.join(_GRACE_S)
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None and not (feeder and feeder.is_alive()):
                stream.close()

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
        return Ended(
            name=self.name,
            program=self.program,
            code=self.process.returncode,
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
            *whole, rest = (rest + data).split(b"\n") if data else (rest, b"")
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
        if self.watch.timeout_s is not None:
            ends.append(self.begun + self.watch.timeout_s)
        return max(0.0, min(ends) - time.monotonic())

    def _check_time(self) -> None:
        limit = self.watch.timeout_s
        if limit is not None and self.worker_code is None and self._took() > limit:
            raise timed_out(self.name, limit)

    def _took(self) -> float:
        return time.monotonic() - self.begun
