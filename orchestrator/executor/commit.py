"""From what a worker left to a result in the store, or to an error in the user's terms."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from orchestrator.errors import OrchestrateError, StageError, StoreError, WorkerLostError
from orchestrator.executor.server import LOG_NAME
from orchestrator.executor.worker import DISK_FULL, RESULT
from orchestrator.plan.graph import Action
from orchestrator.plan.resolve import Resolved, Resolver
from orchestrator.plan.secrets import Secrets
from orchestrator.stages.base import Repeats
from orchestrator.stages.catalogue import stage as find_stage
from orchestrator.store.results import Result
from orchestrator.store.store import Store, explained

_LOG_END_BYTES: Final = 512 * 1024
_NEARLY_FULL_BYTES: Final = 1024 * 1024
#: Somebody asked the worker to end; running it again would be against that wish.
_ASKED_TO_END: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class MismatchError(WorkerLostError):
    """The worker found another environment than was planned for."""


def read_report(
    directory: Path, code: int, action: Action, *, starved: bool | None
) -> Mapping[str, Any]:
    """Return the report of a worker that succeeded.

    Args:
        directory: The worker's.
        code: Its exit code, negative for a signal.
        action: What it ran.
        starved: Whether the kernel killed it for want of memory; None: the kernel does not tell.

    Raises:
        StageError: the stage refused; the same inputs would fail the same way.
        WorkerLostError: the worker was killed, crashed, or ran out of memory or disk space.
        StoreError: the store's disk is full.
    """
    try:
        report: dict[str, Any] = json.loads((directory / RESULT).read_bytes())
    except (OSError, ValueError):
        if code == DISK_FULL:
            what = "the worker could not write its result"
            raise _no_space(action, what, directory) from None
        raise _ended(code, action, starved) from None
    if report["ok"]:
        return report
    raise _refused(report, action, directory)


def failure_report(directory: Path) -> Mapping[str, Any]:
    """Return the report of a worker that failed; empty when it left none."""
    try:
        report = json.loads((directory / RESULT).read_bytes())
    except (OSError, ValueError):
        return {}
    return report if isinstance(report, dict) else {}


def is_lost(report: Mapping[str, Any], code: int) -> bool:
    """Whether a worker was lost on its way, so that the same again may well succeed.

    Args:
        report: What it left; empty for nothing.
        code: Its exit code, negative for a signal.
    """
    if report:
        return bool(report.get("retry"))
    return code != DISK_FULL and -code not in _ASKED_TO_END


def commit(
    store: Store,
    resolver: Resolver,
    secrets: Secrets,
    resolved: Resolved,
    action: Action,
    directory: Path,
    report: Mapping[str, Any],
    *,
    replace: bool,
    notes: str = "",
) -> Result:
    """Store what a worker left: contents first, then the result that points at them.

    *notes* come before its log.

    Raises:
        StoreError: the disk is full or read-only; nothing of the result is visible then.
    """
    stage = find_stage(action.stage)
    record = report["observed"]
    with explained(store.root):
        outputs = {name: store.trees.add(directory / "out" / name) for name in stage.outputs}
        log = _store_log(store, secrets, directory, notes)
        key, material = resolver.complete(resolved, record)
        result = Result(
            key=key,
            stage=stage.name,
            material=material,
            outputs=outputs,
            values=secrets.hide(report["values"]),
            tools=report["tools"],
            seconds=report["seconds"],
            peak_bytes=report["peak_bytes"],
            log=log,
        )
        if stage.repeats is Repeats.MEASUREMENT:
            store.results.measure(result)
            return result
        stored = store.results.put(result, replace=replace or bool(resolved.warning))
        if record is not None:
            store.results.observe(resolved.key, secrets.hide(record))
        return stored


def log_text(directory: Path, secrets: Secrets) -> str:
    """Return what a worker wrote to its log, secrets hidden; of a huge one the two ends."""
    try:
        with (directory / LOG_NAME).open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            data = file.read(_LOG_END_BYTES)
            if size > 2 * _LOG_END_BYTES:
                data += f"\n… {size - 2 * _LOG_END_BYTES} bytes left out …\n".encode()
                file.seek(-_LOG_END_BYTES, os.SEEK_END)
            data += file.read(_LOG_END_BYTES)
    except OSError:
        return ""
    return secrets.hide_text(data.decode(errors="replace"))


def _store_log(store: Store, secrets: Secrets, directory: Path, notes: str) -> str:
    text = secrets.hide_text(notes) + log_text(directory, secrets)
    if not text.strip():
        return ""
    folder = directory / "log"
    folder.mkdir()
    (folder / LOG_NAME).write_text(text)
    return store.trees.add(folder)


def _refused(report: Mapping[str, Any], action: Action, directory: Path) -> OrchestrateError:
    message, where = report["message"], report.get("where") or action.stage
    hint = report.get("hint", "")
    match report["kind"]:
        case "stage":
            return StageError(message, where=where, hint=hint)
        case "disk":
            return _no_space(action, message, directory, hint)
        case "memory":
            return WorkerLostError(
                f"'{action.stage}' ran out of memory",
                hint="set executor.workers=1, use smaller model.dims, or more memory",
            )
        case "exit":
            return StageError(f"{message}, which ends the worker", where=where)
        case "mismatch":
            return MismatchError(
                message, where=where, hint="run the command again; nothing was stored"
            )
        case "lost":
            return WorkerLostError(message, where=where, hint=hint)
        case _:
            return StageError(message, where=where, hint="the action's log has the traceback")


def _ended(code: int, action: Action, starved: bool | None) -> WorkerLostError:
    if code >= 0:
        return WorkerLostError(
            f"the worker of '{action.stage}' ended with code {code} and left no result",
            hint="its log says more; run the same command again: what was finished is kept",
        )
    try:
        name = signal.Signals(-code).name
    except ValueError:  # a real-time signal has a number only
        name = f"signal {-code}"
    if starved:
        return WorkerLostError(
            f"the worker of '{action.stage}' was killed by the kernel for want of memory ({name})",
            hint="set a lower executor.memory_gib or executor.workers=1, use smaller model.dims, "
            "or more memory; what was finished is kept",
        )
    by = "by somebody or by the kernel for want of memory" if starved is None else "by somebody"
    causes: dict[int, str] = {
        signal.SIGKILL: f"was killed {by}",
        signal.SIGSEGV: "crashed in native code",
        signal.SIGABRT: "aborted in native code",
        signal.SIGBUS: "crashed in native code",
        signal.SIGILL: "met an instruction that this processor does not have",
    }
    cause = causes.get(-code, "was ended by a signal")
    return WorkerLostError(
        f"the worker of '{action.stage}' {cause} ({name})",
        hint="run the same command again: what was finished is kept",
    )


def _no_space(action: Action, what: str, directory: Path, hint: str = "") -> OrchestrateError:
    """A full store ends the run; a disk of the user's own, or a limit, fails one action.

    Args:
        action: What ran.
        what: What the worker could not write.
        directory: The worker's, on the store's disk.
        hint: What to do where it is another disk that is full, such as a toolchain's.
    """
    full = shutil.disk_usage(directory).free < _NEARLY_FULL_BYTES
    ours = "free some space ('orchestrate cache gc --max-size 10GiB'), or set cache.dir"
    return (StoreError if full else WorkerLostError)(
        f"no space left while '{action.stage}' ran: {what}",
        hint=f"{ours if full or not hint else hint}; everything finished so far is kept",
    )
