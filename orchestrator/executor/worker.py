"""What a forked process does: run one stage, leave ``result.json``, report progress on a pipe.

The protocol of every toolchain: ``request.json`` in, JSON lines of events out, ``result.json`` and
files left in the directory.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from orchestrator.backends.onnxruntime.installed import cpu_target
from orchestrator.errors import OrchestrateError, WorkerLostError
from orchestrator.executor.observe import ChangedError, Recorder
from orchestrator.executor.recurrence import Witness
from orchestrator.plan.observed import Observer
from orchestrator.plan.tools import versions
from orchestrator.stages.base import Context, Scope, Stage, execute
from orchestrator.stages.catalogue import stage as find_stage
from orchestrator.store.index import Index, identity
from orchestrator.store.store import SHARED

REQUEST: Final = "request.json"
RESULT: Final = "result.json"
#: Exit code of a worker that could not even write its result.
DISK_FULL: Final = os.EX_IOERR
_PROGRESS_INTERVAL_S: Final = 0.1


def main(directory: str, events: int, locks: Sequence[int] = ()) -> int:
    """Run the request in *directory*; return the process's exit code.

    Args:
        directory: Where the request is and the result will be.
        events: Descriptor that progress is written to.
        locks: Descriptors of the action's locks, which live as long as this process.
    """
    root = Path(directory)
    request = json.loads((root / REQUEST).read_bytes())
    begun = time.perf_counter()
    witness = Witness()
    try:
        result = _run(root, request, events, locks, time.time_ns(), witness)
    except BaseException as exc:  # noqa: BLE001  # user code may raise anything
        retry = isinstance(exc, WorkerLostError)
        result = {**_told(exc), "retry": retry, **witness.testimony(exc)}
    result["seconds"] = time.perf_counter() - begun
    result["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    try:
        temporary = root / f".{RESULT}"
        temporary.write_text(json.dumps(result))
        temporary.replace(root / RESULT)
    except OSError:
        return DISK_FULL
    return 0


def _told(exc: BaseException) -> dict[str, Any]:
    """Return what the parent is told of a failure; its traceback goes to the log."""
    if isinstance(exc, ChangedError):
        return _failure("mismatch", str(exc))
    if isinstance(exc, SystemExit):
        return _failure("exit", f"the code called sys.exit({exc.code!r})")
    if isinstance(exc, OrchestrateError):
        if exc.__cause__ is not None:
            _print_traceback(exc.__cause__)
        return _failure(_kind(exc), exc.message, where=exc.where, hint=exc.hint)
    if isinstance(exc, MemoryError):
        return _failure("memory", "not enough memory")
    _print_traceback(exc)
    text = f"{type(exc).__name__}: {exc}"
    if isinstance(exc, OSError):
        full = exc.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        return _failure("disk" if full else "bug", text)
    return _failure("bug", text, place=_place(exc))


def _run(
    root: Path,
    request: dict[str, Any],
    events: int,
    locks: Sequence[int],
    begun_ns: int,
    witness: Witness,
) -> dict[str, Any]:
    stage = find_stage(request["stage"])
    believed = request["tools"], request["machine"]
    params = request["params"]
    seen = versions(tuple(stage_tools(stage, params))), _machine(stage, params)
    if seen != believed:
        return {"kind": "mismatch", "ok": False, "message": _difference(believed, seen)}
    files = {name: Path(path) for name, path in request["files"].items()}
    _check_identities(files, request["identities"])
    base, scratch = Path(request["base"]), root / "scratch"
    outputs = {name: root / "out" / name for name in stage.outputs}
    for path in (*outputs.values(), scratch):
        path.mkdir(parents=True)
    sys.path.insert(0, str(base))
    index = Index(None)
    recorder = Recorder(
        base,
        Path(request["store"]),
        Observer(base, sys.path, index),
        search_path=list(sys.path),
        declared=files,
        begun_ns=begun_ns,
    )
    witness.watch(
        recorder if stage.user_code else None,
        sys.path,
        lambda: _check_identities(files, request["identities"]),
    )
    context = Context(
        params=params,
        inputs={name: Path(path) for name, path in request["inputs"].items()},
        outputs=outputs,
        scratch=scratch,
        paths=files,
        observe=recorder,
        progress=_Progress(events),
        log=_log,
        threads=request["threads"],
        reach=request["reach"],
        locks=locks,
        shared=Path(request["store"]) / SHARED,
    )
    values = execute(stage, context)
    _check_identities(files, request["identities"])
    observed = recorder.record() if stage.user_code else None
    return {"ok": True, "values": values, "observed": observed, "tools": seen[0]}


def stage_tools(stage: Stage, params: dict[str, Any]) -> tuple[str, ...]:
    """Return the tools whose versions are in the key of an action of *stage*."""
    tools = stage.tools_for(params)
    return (*tools, "python") if stage.user_code else tools


def _check_identities(files: Mapping[str, Path], identities: Mapping[str, str]) -> None:
    """Check that the declared files are still those whose digests are in the key.

    Raises:
        ChangedError: one was written since it was digested.
    """
    for name, path in files.items():
        if not path.exists() or identity(path) != identities[name]:
            raise ChangedError(f"{path} was written while the action ran")


def _log(text: str) -> None:
    with contextlib.suppress(OSError):  # a full disk must not hide what really happened
        print(text, flush=True)


def _kind(exc: OrchestrateError) -> str:
    """Return what became of the action: ``stage`` would come again, the others may not."""
    if isinstance(exc, WorkerLostError):
        return "lost"
    kind = str(getattr(exc, "kind", ""))  # of a toolchain's refusal
    if kind in ("mismatch", "disk"):
        return kind
    if kind in ("device", "memory"):
        return "lost"
    return "memory" if isinstance(exc.__cause__, MemoryError) else "stage"


def _print_traceback(exc: BaseException) -> None:
    with contextlib.suppress(OSError):
        traceback.print_exception(exc)


def _machine(stage: Stage, params: Mapping[str, Any]) -> Any:
    return cpu_target() if stage.scope_for(params) is Scope.CPU else None


class _Progress:
    """Writes progress events, at most ten a second, and never blocks the action."""

    def __init__(self, events: int) -> None:
        self._events = events
        self._last = 0.0
        os.set_blocking(events, False)

    def __call__(self, done: float, text: str = "") -> None:
        now = time.monotonic()
        if now - self._last < _PROGRESS_INTERVAL_S and done < 1:
            return
        self._last = now
        try:
            os.write(self._events, (json.dumps({"done": done, "text": text}) + "\n").encode())
        except OSError:
            self._last = now + 1  # a full or closed pipe: nobody is looking


def _failure(
    kind: str, message: str, *, where: str = "", hint: str = "", place: str = ""
) -> dict[str, Any]:
    _log(f"failed: {message}")
    return {
        "ok": False,
        "kind": kind,
        "message": f"{message}{f' ({place})' if place else ''}",
        "where": where,
        "hint": hint,
    }


def _place(exc: BaseException) -> str:
    """Return ``file.py:line`` of the innermost frame."""
    trace = exc.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return ""
    return f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"


def _difference(believed: tuple[Any, Any], seen: tuple[Any, Any]) -> str:
    names = {*believed[0], *seen[0]}
    changed = [
        f"{name} is {seen[0].get(name, 'missing')}, not {believed[0].get(name, 'missing')}"
        for name in sorted(names)
        if believed[0].get(name) != seen[0].get(name)
    ]
    if believed[1] != seen[1]:
        changed.append("the processor is another one")
    return "the worker's environment differs from what was planned: " + "; ".join(changed)
