"""From an ONNX tree to ``engine.plan`` and its manifest, by building or by refitting."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from orchestrator.backends.base import Built, Job, Json, Target
from orchestrator.backends.neighbours import noted
from orchestrator.backends.tensorrt.calling import (
    loaded,
    operate,
    plugin_digests,
    toolchain_of,
)
from orchestrator.backends.tensorrt.failures import ToolchainError
from orchestrator.backends.tensorrt.options import carries_code
from orchestrator.backends.tensorrt.plan_file import NAME, write_manifest
from orchestrator.backends.tensorrt.refitting import Known, not_replaced
from orchestrator.backends.tensorrt.toolchain import Answer
from orchestrator.errors import StageError
from orchestrator.graphs import files as onnx_files
from orchestrator.numerics.batches import read_index
from orchestrator.store.digests import of_file, of_json
from orchestrator.store.files import write_durably
from orchestrator.store.index import files_below

_MODEL: Final = "model"
_TABLE: Final = "calibration.table"
_TIMING: Final = "timing.cache"
_TIMING_OUT: Final = "timing.new"
_SHOWN: Final = 8


def build(model: Path, into: Path, target: Target, job: Job, more: Built) -> Json:
    """Build the ONNX tree *model* into *into*.

    Returns:
        ``bytes`` of the plan, ``seconds`` by phase, ``layers``, ``inputs``, ``outputs``,
        ``warnings`` of TensorRT, ``timing_cache``, ``kept_layers``, ``calibration_batches``; where
        others used the GPU, ``neighbours`` and ``notes``.

    Raises:
        ToolchainError, WorkerLostError: TensorRT refuses it, with its own words; parser errors name
            the node, its operator and, where known, the PyTorch module.
    """
    answer, directory = _operate_build(model, target, job, more)
    (directory / NAME).replace(into / NAME)
    _describe(into, model, target, job, answer)
    return _told(answer)


def refit(model: Path, base: Path, into: Path, target: Target, job: Job, more: Built) -> Json:
    """Give the engine in *base* the weights of *model*; build where that cannot be done.

    Returns:
        As :func:`build`, and ``refitted``: true, or false with ``reason``.

    Raises:
        ToolchainError, WorkerLostError: as :func:`build`.
    """
    load = {"host_code": carries_code(target["options"])}
    fields, files, manifest = loaded(base, load)
    request = {
        "op": "refit",
        **fields,
        "onnx": f"{_MODEL}/{onnx_files.MODEL}",
        "output": "new.plan",
    }
    try:
        answer, directory = operate(job, target, request, {**files, _MODEL: model}, "refit")
    except ToolchainError as exc:
        if exc.kind not in ("refused", "builder", "bug"):
            raise
        return _built_instead(exc.message, model, into, target, job, more)
    stale = not_replaced(model, Known.from_json(answer.values.pop("known")))
    if stale:
        names = ", ".join(f"'{name}'" for name in stale[:_SHOWN])
        more_of_them = ", …" if len(stale) > _SHOWN else ""
        reason = (
            f"TensorRT's refitter does not know {len(stale)} of the model's weights: "
            f"{names}{more_of_them}"
        )
        return _built_instead(reason, model, into, target, job, more)
    (directory / "new.plan").replace(into / NAME)
    for name in ("inputs", "outputs"):
        answer.values[name] = manifest.get(name)
    _describe(into, model, target, job, answer)
    return {**_told(answer), "refitted": True}


def _built_instead(
    reason: str, model: Path, into: Path, target: Target, job: Job, more: Built
) -> Json:
    job.log(f"not refitted: {reason}")
    job.log("building the engine instead")
    return {**build(model, into, target, job, more), "refitted": False, "reason": reason}


def _operate_build(model: Path, target: Target, job: Job, more: Built) -> tuple[Answer, Path]:
    request: Json = {
        "op": "build",
        "onnx": f"{_MODEL}/{onnx_files.MODEL}",
        "plan": NAME,
        "precision": target["precision"],
        "options": target["options"],
        "profiles": target["profiles"],
        "io_names": {"inputs": target["inputs"], "outputs": target["outputs"]},
    }
    files = {_MODEL: model}
    timing = _timing_cache(request, files, target, job)
    table = _calibration(request, files, model, target, job, more)
    try:
        answer, directory = operate(job, target, request, files, "build")
    except ToolchainError as exc:
        raise _explained(exc, more.provenance) from exc
    _keep(directory / _TIMING_OUT, timing)
    _keep(directory / _TABLE, table)
    return answer, directory


def _timing_cache(request: Json, files: dict[str, Path], target: Target, job: Job) -> Path | None:
    """Add the device's timing cache to *request*; return where to keep what comes back, if it does.

    A toolchain of this machine reads, merges and writes it in place, under its lock. Over a pipe it
    travels: of two builds at the same time the later one's timings are kept then.
    """
    if job.shared is None or not job.reach["timing_cache"]:
        return None
    expect = target["expect"]
    device = expect.get("device") or {}
    words = ("tensorrt", expect["tensorrt"], "cuda", expect.get("cuda_runtime"), device.get("name"))
    name = re.sub(r"[^\w.]+", "-", " ".join(str(word) for word in words)).lower()
    path = job.shared / "timing" / f"{name}.cache"
    if toolchain_of(job).here:
        path.parent.mkdir(parents=True, exist_ok=True)
        request["timing_cache"] = {"read": str(path), "write": str(path)}
        return None
    request["timing_cache"] = {"read": _TIMING, "write": _TIMING_OUT}
    if path.exists():
        files[_TIMING] = path
    return path


def _calibration(
    request: Json, files: dict[str, Path], model: Path, target: Target, job: Job, more: Built
) -> Path | None:
    """Add calibration to *request*; return where the table is kept between builds.

    The table depends on the model and how it is parsed, plugins, the batches, the algorithm,
    TensorRT and the device, not on other options: another workspace does not calibrate again.
    """
    algorithm = target.get("calibrator")
    if algorithm is None:
        return None
    if more.samples is None:
        raise StageError("the calibrator was given no samples", where="calibration")
    batches = read_index(more.samples)
    request["calibration"] = {
        "algorithm": algorithm,
        "batches": [f"calibration/{batch.file}" for batch in batches],
        "cache_read": f"known.{_TABLE}",
        "cache_write": _TABLE,
    }
    files["calibration"] = more.samples
    if job.shared is None:
        return None
    what = {
        "model": _digests(model),
        "samples": _digests(more.samples),
        "algorithm": algorithm,
        "expect": target["expect"],
        "precision": target["precision"],
        "plugins": plugin_digests(job),
        "parser": [target["options"][name] for name in ("native_instancenorm", "parser_flags")],
    }
    path = job.shared / "calibration" / f"{of_json('calibration table', what)}.table"
    if path.exists():
        files[f"known.{_TABLE}"] = path
        job.log("calibration: the table of an earlier build is used")
    return path


def _digests(tree: Path) -> dict[str, str]:
    return {str(path.relative_to(tree)): of_file(path) for path in files_below(tree)}


def _keep(made: Path, place: Path | None) -> None:
    """Copy *made* to its *place*, where there are both."""
    if place is not None and made.exists():
        write_durably(place, made.read_bytes())


def _describe(into: Path, model: Path, target: Target, job: Job, answer: Answer) -> None:
    """Write the plan's manifest."""
    write_manifest(
        into / NAME,
        answer.seen,
        options=target["options"],
        plugins=plugin_digests(job),
        more={
            "inputs": answer.values.get("inputs"),
            "outputs": answer.values.get("outputs"),
            "declared": _declared(model),
            "precision_name": target["word"],
            "precision": target["precision"],
            "profiles": target["profiles"],
        },
    )


def _declared(model: Path) -> dict[str, str]:
    """Return the ONNX model's output types: an engine of 8.6 gives int64 as int32."""
    import onnx

    graph = onnx_files.load(model, weights=False).graph
    return {
        value.name: onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).name
        for value in graph.output
    }


def _told(answer: Answer) -> Json:
    found = noted(answer.values, "TensorRT may have chosen slower kernels")
    found["driver"] = answer.seen.get("cuda_driver")
    return found


def _explained(exc: ToolchainError, provenance: Path | None) -> ToolchainError:
    """Return *exc* with the PyTorch modules that the refused nodes came from."""
    nodes = [str(error.get("node_name") or "") for error in exc.result.get("errors") or []]
    modules = _modules(provenance)
    lines = [
        f"node '{node}' came from module '{found['module']}' ({found['source'] or 'no source'})"
        for node in dict.fromkeys(nodes)
        if (found := modules.get(node)) and found.get("module")
    ]
    if not lines:
        return exc
    return ToolchainError(
        "\n    ".join([exc.message, *lines]),
        kind=exc.kind,
        where=exc.where,
        hint=exc.hint,
        log=exc.log,
        result=exc.result,
    )


def _modules(provenance: Path | None) -> Mapping[str, Any]:
    if provenance is None:
        return {}
    try:
        found = json.loads((provenance / "provenance.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
