"""An engine at work: on all batches of samples, under the inspector, and against the clock."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.backends.base import Job, Json, Target, check_outputs
from orchestrator.backends.neighbours import DISTURBED, noted
from orchestrator.backends.tensorrt.audit import audit_engine
from orchestrator.backends.tensorrt.calling import loaded, operate
from orchestrator.backends.tensorrt.failures import ToolchainError
from orchestrator.backends.tensorrt.inspector import parse
from orchestrator.backends.tensorrt.options import kept_nodes
from orchestrator.backends.tensorrt.probe import gpu_of
from orchestrator.backends.tensorrt.work import observe
from orchestrator.config.tensorrt import TensorRTOptions
from orchestrator.numerics.batches import Batch, measured_batch, read_batch, read_index

if TYPE_CHECKING:
    import numpy as np

    Arrays = dict[str, np.ndarray[Any, Any]]


def run(
    model: Path, samples: Path, wanted: Sequence[str], target: Target, job: Job
) -> Iterator[tuple[Batch, Arrays]]:
    """Run every batch of *samples* in one process; yield the *wanted* outputs, in order.

    Integer outputs have the types that the ONNX model declares: an engine of 8.6 gives int32 for
    int64.

    Raises:
        ToolchainError, WorkerLostError: the engine does not load, or does not take the samples.
        StageError: an output is missing.
    """
    import numpy as np

    batches = read_index(samples)
    fields, files, manifest = loaded(model, target)
    pairs = [[f"samples/{batch.file}", f"out-{number}.npz"] for number, batch in enumerate(batches)]
    request = {"op": "run", **fields, "batches": pairs}
    _, directory = operate(job, target, request, {**files, "samples": samples}, "run")
    declared = manifest.get("declared") or {}
    for number, batch in enumerate(batches):
        path = directory / f"out-{number}.npz"
        with np.load(path, allow_pickle=False) as found:
            outputs = {name: found[name] for name in found.files}
        path.unlink()
        check_outputs(list(outputs), wanted, "the engine")
        yield batch, {name: _as_declared(outputs[name], declared.get(name)) for name in wanted}


def audit(
    model: Path, onnx: Path | None, samples: Path, claim: Json, target: Target, job: Job
) -> Json:
    """Return what the engine stores and computes, held against the precision *claim*.

    Layers are timed on the first ``opt`` batch, and weighed by the FLOPs of the ONNX nodes that
    they implement.

    Returns:
        The values of :func:`orchestrator.backends.tensorrt.audit.audit_engine`, ``plan_bytes``,
        ``device_memory_bytes`` and ``fp32_bytes``: what the model's weights take in fp32.

    Raises:
        ToolchainError, WorkerLostError: the engine does not load, or does not take the samples.
    """
    from orchestrator.backends.tensorrt.graph_nodes import onnx_nodes
    from orchestrator.graphs import files as onnx_files

    batch = measured_batch(samples)
    fields, files, _ = loaded(model, target)
    request = {"op": "inspect", **fields, "inputs": "in.npz", "time": True}
    files["in.npz"] = samples / batch.file
    answer, _ = operate(job, target, request, files, "inspect")
    found = answer.values
    nodes, fp32_bytes = None, None
    if onnx is not None:
        proto = onnx_files.load(onnx, weights=False)
        shapes = {name: array.shape for name, array in read_batch(samples, batch).items()}
        nodes = onnx_nodes(proto, shapes)
        fp32_bytes = sum(math.prod(tensor.dims) * 4 for tensor in proto.graph.initializer)
    times = {row["name"]: row["ms"] * 1e3 for row in found.get("profile") or []}
    observed = observe(parse(found["layers"]), nodes=nodes, times_us=times)
    if target.get("layer_precisions") and nodes is not None:
        options = TensorRTOptions(layer_precisions=target["layer_precisions"])
        kept = [*claim.get("keep_nodes", ()), *kept_nodes(options, nodes)]
        claim = {**claim, "keep_nodes": kept}
    values = audit_engine(observed, claim, tf32=target["tf32"])
    return {
        **values,
        "plan_bytes": found.get("plan_bytes"),
        "device_memory_bytes": found.get("device_memory_bytes"),
        "fp32_bytes": fp32_bytes,
    }


def benchmark(model: Path, samples: Path, settings: Json, target: Target, job: Job) -> Json:
    """Measure the engine on the shapes that *settings* name; the first gives the statistics.

    Returns:
        Statistics of the host's time of what was asked for (transfers and CUDA graph as set);
        ``measurements``: every combination, with ``host`` and ``event`` (CUDA events) statistics,
        ``shapes``, ``point``, ``cuda_graph`` and ``transfers``; ``clocks``, ``machine``, ``dims``;
        where others used the GPU, ``neighbours`` and ``notes``.

    Raises:
        ToolchainError, WorkerLostError: the engine does not load, or does not take the samples.
        StageError: the samples have none of the shapes.
    """
    batches = _points(samples, settings["shapes"])
    fields, files, _ = loaded(model, target)
    sources = {f"{number}.npz": batch for number, batch in enumerate(batches)}
    request = {
        "op": "benchmark",
        **fields,
        "inputs": list(sources),
        "protocol": {
            name: settings[name]
            for name in ("warmup_ms", "measure_ms", "min_runs", "cuda_graph", "transfers")
        },
    }
    files |= {name: samples / batch.file for name, batch in sources.items()}
    answer, _ = operate(job, target, request, files, "benchmark")
    _check_gpu(target, answer.seen)
    found = noted(answer.values, DISTURBED)
    for row in found["measurements"]:
        batch = sources[row["inputs"]]
        row["point"], row["dims"] = batch.point, dict(batch.dims)
        for statistics in (row["host"], row["event"]):
            _count_items(statistics, batch.items)
    _count_items(found, batches[0].items)
    return {**found, "machine": answer.seen, "dims": dict(batches[0].dims)}


def _check_gpu(target: Target, seen: Json) -> None:
    """Check that it was measured on the GPU whose measurement this will be called."""
    wanted, found = target.get("uuid"), gpu_of(seen)
    if wanted and wanted != found:
        raise ToolchainError(
            f"this was measured on {found}, and planned for {wanted}",
            kind="mismatch",
            hint="run again: the remembered probe of this toolchain is dropped",
        )


def _points(samples: Path, points: Sequence[str]) -> list[Batch]:
    """Return the first batch of each of *points*, of every profile.

    Where a point equals an optimum it is not there.
    """
    found: dict[str, Batch] = {}
    batches = read_index(samples)
    for point in points:
        for batch in batches:
            if batch.point.split()[0] == point:
                found.setdefault(batch.point, batch)
    return list(found.values()) or [measured_batch(samples)]


def _count_items(statistics: Json, items: int) -> None:
    """Count *items* of a batch, which the worker does not know, in the throughput."""
    counted = statistics["items"]
    if counted:
        statistics["throughput"] *= items / counted
    statistics["items"] = items


def _as_declared(array: np.ndarray[Any, Any], dtype: str | None) -> np.ndarray[Any, Any]:
    import numpy as np

    if dtype is None or array.dtype == dtype:
        return array
    integers = np.issubdtype(array.dtype, np.integer) and np.issubdtype(np.dtype(dtype), np.integer)
    return array.astype(dtype) if integers else array
