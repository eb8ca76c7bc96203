"""Starts the process of one measurement, and reads what it left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from orchestrator.backends.beside import ENGINES, child
from orchestrator.backends.beside.engine import UnavailableError
from orchestrator.backends.neighbours import DISTURBED, noted
from orchestrator.errors import StageError
from orchestrator.stages.base import Context

Json = dict[str, Any]

_OUTPUT: Final = "output.txt"
_KEPT_LINES: Final = 200
_START: Final = f"import sys; from {child.__name__} import main; sys.exit(main(sys.argv[1]))"


def measure(ctx: Context, batches: list[Json]) -> Json:
    """Measure the engine ``ctx.params["engine"]`` on *batches* of the input ``samples``.

    The process is spawned, never forked, holds the action's locks, and where ``ctx.params["uuid"]``
    names a GPU it sees that one alone. What it and its libraries print goes to the action's log.

    Returns:
        The values that :func:`child.main` measured, with a note where others used the GPU.

    Raises:
        UnavailableError: the engine cannot be measured here.
        StageError: the model or its samples are not as declared.
        RuntimeError: the process ended without a result: a mistake of ours.
    """
    directory = ctx.scratch / "beside"
    directory.mkdir()
    request = {
        "params": ctx.params,
        "inputs": {name: str(path) for name, path in ctx.inputs.items()},
        "paths": {name: str(path) for name, path in ctx.paths.items()},
        "batches": batches,
        "path": sys.path,
    }
    (directory / child.REQUEST).write_text(json.dumps(request))
    name = ENGINES[ctx.params["engine"]]
    ctx.progress(0.0, name)
    code, said = _run(directory, ctx)
    for line in said:
        ctx.log(line)
    return _values(directory, code, said, name)


def _run(directory: Path, ctx: Context) -> tuple[int, list[str]]:
    uuid = ctx.params.get("uuid")
    environment = {**os.environ, **({"CUDA_VISIBLE_DEVICES": uuid} if uuid else {})}
    output = directory / _OUTPUT
    with output.open("wb") as file:
        # -P: nothing in the working directory may shadow a library.
        ended = subprocess.run(
            [sys.executable, "-P", "-c", _START, str(directory)],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment,
            pass_fds=tuple(ctx.locks),
            check=False,
        )
    lines = output.read_text(errors="replace").splitlines()
    return ended.returncode, [line for line in lines if line.strip()][-_KEPT_LINES:]


def _values(directory: Path, code: int, said: list[str], name: str) -> Json:
    try:
        result: Json = json.loads((directory / child.RESULT).read_bytes())
    except FileNotFoundError:
        if code < 0:  # its own libraries', or the system's, which was out of memory
            raise UnavailableError(f"{name} was ended by {signal.Signals(-code).name}") from None
        last = said[-1] if said else f"exit code {code}"
        raise RuntimeError(f"measuring {name} left no result: {last}") from None
    if "refused" in result:
        refused = result["refused"]
        raise StageError(refused["message"], where=refused["where"], hint=refused["hint"])
    if "unavailable" in result:
        raise UnavailableError(result["unavailable"])
    return noted(result["values"], DISTURBED)
