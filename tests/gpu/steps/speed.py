"""ResNet-50 beside a bare script that makes the same TensorRT calls, taking turns."""

from __future__ import annotations

import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from orchestrator.backends.tensorrt.toolchain import Toolchain, call
from orchestrator.numerics.batches import measured_batch
from tests.gpu.steps.check import Check, Json, engine_of

#: Two-sided 95 % quantiles of Student's t by degrees of freedom (ISO 2602, table 1).
STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
PROTOCOL = {"warmup_ms": 300, "measure_ms": 1000}
#: A quick build: what is compared is everything around it.
LEVEL = 1
ALLOWED_S, ALLOWED_SHARE = 1.0, 0.03
ALLOWED_LATENCY = 0.01


def overhead(check: Check, model: str) -> Json:
    """Build the same ONNX by the worker and by hand: seconds outside build_serialized_network.

    As expected: the worker needs at most 1 s and 3 % of the bare build more.
    """
    manifest = check.variant(model, "precision=fp32")
    spec = {
        "onnx": str((Path(manifest["directory"]) / "artifacts" / "onnx").resolve()),
        "profile": _shapes(manifest),
        "tactic_sources": manifest["config"]["target"]["tactic_sources"],
    }
    rows = [_built_twice(check, spec, turn) for turn in range(max(2, check.rounds // 2))]
    ours = statistics.median(row["worker"]["outside_s"] for row in rows)
    bare = statistics.median(row["bare"]["outside_s"] for row in rows)
    total = statistics.median(row["bare"]["total_s"] for row in rows)
    return {
        "ok": ours - bare <= ALLOWED_S + ALLOWED_SHARE * total,
        "shown": f"outside the build {ours:.2f} s, bare {bare:.2f} s, of {total:.1f} s in all",
        "worker_outside_s": ours,
        "bare_outside_s": bare,
        "bare_total_s": total,
        "rounds": rows,
    }


def latency(check: Check, model: str) -> Json:
    """Run the same plan by the worker's benchmark and by hand, taking turns.

    As expected: the ratio of the medians is 1 within its 95 % confidence interval, or within 1 %.
    """
    manifest = check.variant(model, "precision=fp16")
    plan, inputs = engine_of(manifest), _inputs(manifest)
    ours: list[float] = []
    bare: list[float] = []
    for turn in range(check.rounds):
        _in_turn(
            turn,
            lambda: ours.append(_worker_latency(check, plan, inputs)),
            lambda: bare.append(_bare_latency(check, plan, inputs)),
        )
    ratio, low, high = ratio_interval(ours, bare)
    return {
        "ok": low <= 1 <= high or abs(ratio - 1) <= ALLOWED_LATENCY,
        "shown": f"{statistics.median(ours):.4f} ms, bare {statistics.median(bare):.4f} ms; ratio "
        f"{ratio:.4f} [{low:.4f}, {high:.4f}]",
        "worker_ms": ours,
        "bare_ms": bare,
        "ratio": ratio,
        "interval": [low, high],
    }


def ratio_interval(first: Sequence[float], second: Sequence[float]) -> tuple[float, float, float]:
    """Return the mean ratio of pairs and its 95 % confidence interval.

    The geometric mean of ``first[i] / second[i]``, with Student's t on the logarithms.

    Raises:
        ValueError: fewer than 2 or more than 10 pairs, or unequal numbers.
    """
    logs = [math.log(a / b) for a, b in zip(first, second, strict=True)]
    if not 2 <= len(logs) <= len(STUDENT) + 1:
        raise ValueError(f"{len(logs)} pairs; expected 2 to {len(STUDENT) + 1}")
    mean = statistics.fmean(logs)
    half = STUDENT[len(logs) - 2] * statistics.stdev(logs) / math.sqrt(len(logs))
    return math.exp(mean), math.exp(mean - half), math.exp(mean + half)


def _in_turn(turn: int, first: Callable[[], None], second: Callable[[], None]) -> None:
    """Call both, the second one first in odd turns: what changes with time meets them alike."""
    for call_one in (second, first) if turn % 2 else (first, second):
        call_one()


def _built_twice(check: Check, spec: Json, turn: int) -> Json:
    found: Json = {}
    _in_turn(
        turn,
        lambda: found.update(worker=_worker_build(check, spec)),
        lambda: found.update(bare=_bare_build(check, spec)),
    )
    return found


def _worker_build(check: Check, spec: Json) -> Json:
    points = {
        name: dict(zip(("min", "opt", "max"), bounds, strict=True))
        for name, bounds in spec["profile"].items()
    }
    request = {
        "op": "build",
        "onnx": "model/model.onnx",
        "plan": "engine.plan",
        "precision": {"mode": "weak", "flags": [], "tf32": False},
        "profiles": [points],
        "options": {
            "tactic_sources": spec["tactic_sources"],
            "profiling_verbosity": "detailed",
            "optimization_level": LEVEL,
        },
    }
    begun = time.perf_counter()
    seconds = _call(check, request, {"model": Path(spec["onnx"])})["seconds"]
    return _around(time.perf_counter() - begun, seconds)


def _bare_build(check: Check, spec: Json) -> Json:
    with tempfile.TemporaryDirectory(dir=check.work) as folder:
        own = {
            **spec,
            "onnx": f"{spec['onnx']}/model.onnx",
            "plan": f"{folder}/bare.plan",
            "flags": [],
            "tf32": False,
            "optimization_level": LEVEL,
        }
        begun = time.perf_counter()
        seconds = _bare(check, "build", own, Path(folder))["seconds"]
        return _around(time.perf_counter() - begun, seconds)


def _around(total: float, seconds: Json) -> Json:
    """Return a process's seconds, those outside of TensorRT's build, and the parts it told."""
    return {
        "total_s": round(total, 3),
        "outside_s": round(total - seconds["build"], 3),
        "parts_s": seconds,
    }


def _worker_latency(check: Check, plan: Path, inputs: Path) -> float:
    protocol = {**PROTOCOL, "min_runs": 1, "transfers": False, "cuda_graph": False}
    request = {"op": "benchmark", "plan": "engine.plan", "inputs": ["in.npz"], "protocol": protocol}
    found = _call(check, request, {"engine.plan": plan, "in.npz": inputs})
    return float(found["measurements"][0]["event"]["p50_ms"])


def _bare_latency(check: Check, plan: Path, inputs: Path) -> float:
    with tempfile.TemporaryDirectory(dir=check.work) as folder:
        spec = {"plan": str(plan), "inputs": str(inputs), **PROTOCOL}
        return float(_bare(check, "run", spec, Path(folder))["event_p50_ms"])


def _call(check: Check, request: Json, files: dict[str, Path]) -> Json:
    toolchain = Toolchain(name="check", command=tuple(check.command.toolchain) or None)
    with tempfile.TemporaryDirectory(dir=check.work) as folder:
        return call(toolchain, request, Path(folder), files=files).values


def _bare(check: Check, what: str, spec: Json, folder: Path) -> Json:
    path = folder / "spec.json"
    path.write_text(json.dumps(spec), encoding="utf-8")
    told = check.command.python("bare.py", what, str(path))
    found: Json = json.loads(told.strip().splitlines()[-1])  # TensorRT warns on stdout before it
    return found


def _shapes(manifest: Json) -> Json:
    """Return [min, opt, max] of every input."""
    model = manifest["config"]["model"]

    def sizes(shape: list[int | str], point: str) -> list[int]:
        return [size if isinstance(size, int) else model["dims"][size][point] for size in shape]

    return {
        name: [sizes(given["shape"], point) for point in ("min", "opt", "max")]
        for name, given in model["inputs"].items()
    }


def _inputs(manifest: Json) -> Path:
    """Return the samples that the engine was measured on."""
    samples = (Path(manifest["directory"]) / "artifacts" / "samples").resolve()
    return samples / measured_batch(samples).file
