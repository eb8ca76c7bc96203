"""Several processes, and processes that are killed: never two builders of one engine."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from orchestrator.backends.tensorrt.transport import BOOTSTRAP
from tests.command import Built, Ran
from tests.gpu.rows import OutOfTimeError
from tests.gpu.steps.check import Check, Json, new_engine

#: Names the processes that a step started, also those whose parent is gone.
MARK: Final = "ORCHESTRATE_CHECK"
_POLL_S: Final = 0.02


def marked(token: str) -> set[int]:
    """Return the toolchain's processes (carriers and workers) whose environment has *token*."""
    wanted = f"{MARK}={token}".encode()
    return {pid for pid in _processes() if _is_toolchain(pid) and wanted in _environment(pid)}


def _processes() -> Iterator[int]:
    return (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())


def _is_toolchain(pid: int) -> bool:
    return BOOTSTRAP.encode() in _read(Path(f"/proc/{pid}/cmdline"))


def _environment(pid: int) -> list[bytes]:
    return _read(Path(f"/proc/{pid}/environ")).split(b"\0")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # it has ended, or is not ours
        return b""


def workers(token: str) -> set[int]:
    """Return the marked processes that are workers: children of a marked carrier."""
    found = marked(token)
    return {pid for pid in found if _parent(pid) in found}


def _parent(pid: int) -> int:
    text = _read(Path(f"/proc/{pid}/stat")).rpartition(b")")[2].split()
    return int(text[1]) if len(text) > 1 else 0


def two(check: Check) -> Json:
    """Let two processes ask for the same new engine at once: it is built once."""
    words = _engine(check)
    started = [check.command.start(*words) for _ in range(2)]
    ended = [check.command.finished(one) for one in started]
    statuses = [status for one in ended for status in _statuses(one)]
    return {
        "ok": [one.code for one in ended] == [0, 0] and statuses.count("ran") == 1,
        "shown": f"build: {' and '.join(statuses)}",
        "codes": [one.code for one in ended],
        "messages": [one.err[-300:] for one in ended if one.code],
    }


def parent_killed(check: Check) -> Json:
    """Kill the parent in a build: no second builder runs beside the first, and the next succeeds.

    The first one's builder may end at once, or go on and be waited for.
    """
    first, second = uuid.uuid4().hex, uuid.uuid4().hex
    words = _engine(check)
    parent = check.command.start(*words, env={MARK: first})
    when_building(check, parent, first)
    parent.kill()
    parent.communicate()
    killed_at = time.monotonic()
    watch = _Watch(lambda: (bool(workers(first)), bool(workers(second))))
    try:
        ended = check.command.finished(check.command.start(*words, env={MARK: second}))
    finally:
        seen = watch.stop()
    both = sum(old and new for _, (old, new) in seen)
    gone = next((at for at, (old, _) in seen if not old), killed_at) - killed_at
    statuses = _statuses(ended)
    return {
        "ok": both == 0 and ended.code == 0 and statuses == ["ran"] and len(seen) > 1,
        "shown": f"the first builder was gone after {gone:.2f} s; builders side by side: {both} of "
        f"{len(seen)} looks; build: {' '.join(statuses)}",
        "code": ended.code,
        "message": ended.err[-300:] if ended.code else "",
    }


def worker_killed(check: Check) -> Json:
    """Kill the worker in a build without retries: a clear message, and the next run builds."""
    words = [*_engine(check), "executor.retries=0"]
    failed = _with_worker_killed(check, words)
    again = check.command.finished(check.command.start(*words))
    statuses = _statuses(again)
    return {
        "ok": failed.code == 1
        and "killed" in failed.text
        and "Traceback" not in failed.text
        and again.code == 0
        and statuses == ["ran"],
        "code": failed.code,
        "message": _failure(failed),
        "again": {"code": again.code, "build": statuses},
    }


def worker_retried(check: Check) -> Json:
    """Kill the worker in a build: it is run again, and the engine is built."""
    ended = _with_worker_killed(check, [*_engine(check), "executor.retries=1"])
    statuses = _statuses(ended)
    return {
        "ok": ended.code == 0 and statuses == ["ran"],
        "shown": f"build: {' '.join(statuses)}",
        "code": ended.code,
        "message": _failure(ended),
    }


def _with_worker_killed(check: Check, words: list[str]) -> Ran:
    token = uuid.uuid4().hex
    process = check.command.start(*words, env={MARK: token})
    for pid in when_building(check, process, token):
        os.kill(pid, signal.SIGKILL)
    return check.command.finished(process)


def _engine(check: Check) -> list[str]:
    """Return the words that build an engine which is not in the store yet."""
    own = ("precision=fp32", new_engine(), "benchmark=none")
    return ["build", "--json", *check.command.words("digits", *own)]


def _statuses(ended: Ran) -> list[str]:
    if not ended.out.startswith("{"):
        return []
    actions = Built(**vars(ended), modules=frozenset(), peak_kib=0).variants[0]["actions"]
    return [entry["status"] for entry in actions if entry["stage"] == "build"]


def _failure(ended: Ran) -> str:
    if not ended.out.startswith("{"):
        return ended.err[-600:]
    variants = Built(**vars(ended), modules=frozenset(), peak_kib=0).variants
    return "\n".join(one["message"] for variant in variants for one in variant["failures"])


def when_building(check: Check, process: subprocess.Popen[str], token: str) -> set[int]:
    """Return the marked workers once one of them is older than the check's patience.

    A probe is over by then, and nothing else comes before the build.

    Raises:
        OutOfTimeError: the visit's time is up.
        AssertionError: *process* ended before.
    """
    since: dict[int, float] = {}
    while process.poll() is None:
        if check.rows.left_s <= 0:
            process.terminate()
            process.communicate()
            raise OutOfTimeError
        now = time.monotonic()
        alive = workers(token)
        since = {pid: since.get(pid, now) for pid in alive}
        if any(now - begun >= check.patience_s for begun in since.values()):
            return alive
        time.sleep(_POLL_S)
    out, err = process.communicate()
    raise AssertionError(f"no build took {check.patience_s} s: {(err or out)[-300:]}")


class _Watch:
    """Looks again and again, in a thread, until it is stopped."""

    def __init__(self, look: Callable[[], tuple[bool, bool]]) -> None:
        self._look = look
        self._seen: list[tuple[float, tuple[bool, bool]]] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._over.is_set():
            self._seen.append((time.monotonic(), self._look()))
            self._over.wait(_POLL_S)

    def stop(self) -> list[tuple[float, tuple[bool, bool]]]:
        """End it; return when it looked, and what it saw."""
        self._over.set()
        self._thread.join()
        return self._seen
