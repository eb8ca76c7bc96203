"""Ten thousand runs, changing shapes and CUDA graphs: memory must not grow."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from orchestrator.backends.tensorrt.toolchain import WORKER
from orchestrator.numerics.batches import read_index
from tests.gpu.steps.check import Check, Json, engine_of

RUNS = 10_000
LOADS = 20
#: What may be Python's and the allocators' own coming and going, in bytes; over all runs or loads.
ALLOWED = {"resident_bytes": 8 << 20, "device_bytes": 2 << 20}


def endurance(check: Check, model: str) -> Json:
    """Run an engine often at its smallest, best and largest shape, and load it often."""
    manifest = check.variant(model, "precision=fp16" if model != "digits" else "precision=fp32")
    samples = (Path(manifest["directory"]) / "artifacts" / "samples").resolve()
    points = {batch.point: samples / batch.file for batch in read_index(samples)}
    with tempfile.TemporaryDirectory(dir=check.work) as folder:
        spec = {
            "worker": str(WORKER),
            "plan": str(engine_of(manifest)),
            "directory": folder,
            "inputs": [str(path) for path in points.values()],
            "runs": RUNS,
            "loads": LOADS,
        }
        path = Path(folder) / "spec.json"
        path.write_text(json.dumps(spec), encoding="utf-8")
        found: Json = json.loads(check.command.python("endurance.py", str(path)))
    return found | {"ok": kept(found["growth"]), "shown": shown(found["growth"])}


def kept(growth: Json) -> bool:
    """Return whether no growth is above what is allowed."""
    return all(value <= ALLOWED[name] for grown in growth.values() for name, value in grown.items())


def shown(growth: Json) -> str:
    """Return the growths in KiB, in a line."""
    return "; ".join(
        f"{what}: {grown['resident_bytes'] / 1024:+.0f} KiB resident, "
        f"{grown['device_bytes'] / 1024:+.0f} KiB on the device"
        for what, grown in growth.items()
    )
