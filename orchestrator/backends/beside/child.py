"""What runs in the process of one measurement: opens the engine, times it, leaves the result.

Libraries print what they like, so the result is a file: ``{"values": …}``; ``{"unavailable":
reason}``; or ``{"refused": {"message", "where", "hint"}}`` for what a user can mend.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from orchestrator.errors import OrchestrateError, WorkerLostError

if TYPE_CHECKING:
    from orchestrator.backends.beside.engine import Calls, Engine
    from orchestrator.stages.base import Context

Json = dict[str, Any]

REQUEST: Final = "request.json"
RESULT: Final = "result.json"


def main(directory: str) -> int:
    """Serve the request in *directory*; return the exit code, 0 whenever a result was left."""
    from orchestrator.backends.beside.engine import UnavailableError

    root = Path(directory)
    request = json.loads((root / REQUEST).read_bytes())
    try:
        result: Json = {"values": _measured(request, root)}
    except UnavailableError as exc:
        result = {"unavailable": str(exc)}
    except (WorkerLostError, MemoryError, RuntimeError) as exc:  # CUDA's errors are RuntimeErrors
        traceback.print_exc()
        result = {"unavailable": _line(exc)}
    except OrchestrateError as exc:
        traceback.print_exc()
        result = {"refused": {"message": exc.message, "where": exc.where, "hint": exc.hint}}
    temporary = root / f".{RESULT}"
    temporary.write_text(json.dumps(result))
    temporary.replace(root / RESULT)
    return 0


def _measured(request: Json, root: Path) -> Json:
    from orchestrator.backends.tensorrt.worker import Neighbours, Nvml

    nvml = Nvml(request["params"].get("uuid", ""))  # a CPU has no UUID, and no clocks
    neighbours = Neighbours(nvml)  # before a library uses the GPU
    opened = _opener(request["params"]["engine"])
    sys.path[:] = request["path"]  # the user's, now that the libraries are imported
    engine = opened(_context(request, root))
    before = nvml.clocks()
    with engine.running():
        rows = [row for batch in request["batches"] for row in _rows(engine, request, batch)]
    first = [row for row in rows if row["point"] == rows[0]["point"]]
    facts = engine.facts()
    return {
        **first[-1]["host"],
        **facts,
        "dims": rows[0]["dims"],
        "measurements": rows,
        "clocks": {"before": before, "after": nvml.clocks()},
        "driver": nvml.driver(),
        "neighbours": neighbours.seen(),
    }


def _opener(name: str) -> Callable[[Context], Engine]:
    if name == "torch":
        from orchestrator.backends.beside.torch_eager import Eager

        return Eager
    from orchestrator.backends.beside.onnx_session import Served, import_cuda

    import_cuda()
    return Served


def _rows(engine: Engine, request: Json, entry: Mapping[str, Any]) -> Iterator[Json]:
    """Yield a row for runs on the device alone, then one with transfers where asked for."""
    from orchestrator.backends.beside.stopwatch import CudaEvents, Stopwatch
    from orchestrator.numerics.batches import Batch, read_batch

    batch, protocol = Batch(**entry), request["params"]["benchmark"]
    feeds = read_batch(Path(request["inputs"]["samples"]), batch)
    for transfers, call in _wanted(engine.calls(feeds), protocol):
        gpu = CudaEvents(engine.stream) if engine.stream is not None else None
        yield {
            "point": batch.point,
            "dims": dict(batch.dims),
            "shapes": {name: list(array.shape) for name, array in feeds.items()},
            "cuda_graph": False,
            "transfers": transfers,
            **Stopwatch(call, gpu).measured(protocol, batch.items),
        }


def _wanted(calls: Calls, protocol: Mapping[str, Any]) -> list[tuple[bool, Callable[[], object]]]:
    found = [(False, calls.resident)]
    if calls.transferred is not None and protocol.get("transfers"):
        found.append((True, calls.transferred))
    return found


def _context(request: Json, root: Path) -> Context:
    from orchestrator.stages.base import Context

    scratch = root / "scratch"
    scratch.mkdir()
    return Context(
        params=request["params"],
        inputs={name: Path(path) for name, path in request["inputs"].items()},
        outputs={},
        scratch=scratch,
        paths={name: Path(path) for name, path in request["paths"].items()},
        observe=_Unobserved(),
        progress=lambda done, text="": None,
        log=_log,
        threads=request["params"]["benchmark"].get("threads", 1),
    )


class _Unobserved:
    """Imports user code without recording it: the stages before this one have done that."""

    def importing(self, function: str) -> Callable[..., Any]:
        module, _, attribute = function.partition(":")
        found: Any = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
        return found  # type: ignore[no-any-return]

    def calling(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def file(self, path: Path) -> Path:
        return path


def _log(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def _line(exc: BaseException) -> str:
    """Return what an exception says in one line, with its type where it is no error of ours."""
    text = exc.message if isinstance(exc, OrchestrateError) else str(exc)
    lines = [line.strip() for line in text.splitlines() if line.strip()][:2]
    name = "" if isinstance(exc, OrchestrateError) else f"{type(exc).__name__}: "
    return f"{name}{' '.join(lines)}"[:400]
