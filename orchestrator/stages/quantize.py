"""Stage ``quantize``: an fp32 ONNX file becomes an int8 or fp8 one with Q/DQ pairs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from orchestrator.stages.base import Context, Json, Memory, Repeats, Scope, Stage, StageError

if TYPE_CHECKING:
    import numpy as np

SHOWN = 64
"""Thresholds that are reported at most."""


def run(ctx: Context) -> Json:
    """Quantize ``onnx`` to ``precision.name`` on the calibration batches ``samples``.

    See :mod:`orchestrator.numerics.quantization` for what is inserted where.

    Returns:
        ``quantized`` and ``left``: nodes by operator type; ``weights``: weights behind a pair;
        ``activations``: quantized activations; ``thresholds``: for the first 64 of them, the
        magnitude that becomes 127 (int8) or 448 (fp8); ``items``: calibration items used. fp8 also:
        ``without_kernel``: how many nodes stay fp32 because TensorRT has no fp8 for them; the log
        names them.

    Raises:
        StageError: see :func:`orchestrator.numerics.quantization.quantize`; ``keep_io`` is false.
    """
    from orchestrator.graphs import files as onnx_files
    from orchestrator.numerics.batches import read_batch, read_index
    from orchestrator.numerics.calibration import Calibration
    from orchestrator.numerics.quantization import Selection, quantize
    from orchestrator.numerics.quantized_types import QUANTIZED_TYPES

    precision, calibration = ctx.params["precision"], ctx.params["calibration"]
    kind = QUANTIZED_TYPES[precision["name"]]
    if not precision["keep_io"]:
        raise StageError(
            f"{kind.name} keeps the declared types of inputs and outputs: an {kind.name} array "
            "means nothing without its scale",
            where="precision.keep_io",
            hint="remove precision.keep_io, or use precision=fp16",
        )
    root = ctx.inputs["samples"]
    used, items = [], 0
    for batch in read_index(root):
        if items >= calibration["count"]:
            break
        used.append(batch)
        items += batch.items

    def batches() -> Iterator[dict[str, np.ndarray[Any, Any]]]:
        for number, batch in enumerate(used):
            ctx.progress(0.1 + 0.8 * number / len(used), f"calibrating, batch {number + 1}")
            yield read_batch(root, batch)

    model = onnx_files.load(ctx.inputs["onnx"])
    what = Selection(
        op_types=precision["op_types"],
        keep_op_types=precision["keep_op_types"],
        keep_nodes=precision["keep_nodes"],
        per_channel=precision["per_channel"],
    )
    how = Calibration(
        method=calibration["method"],
        # The planner leaves out what a method does not use, so that it enters no key.
        percentile=calibration.get("percentile", 100.0),
        bins=calibration.get("bins", 1),
        scratch=ctx.scratch,
        threads=ctx.threads,
    )
    quantized, report = quantize(model, batches, what, how, kind)
    ctx.progress(0.95, "checking")
    onnx_files.check(onnx_files.save(quantized, ctx.outputs["onnx"]))
    ctx.log(f"calibrated on {items} items with {calibration['method']}")
    for label, reason in list(report.without_kernel.items())[:SHOWN]:
        ctx.log(f"'{label}' stays in fp32: {reason}")
    values = {
        "quantized": report.quantized,
        "left": report.left,
        "weights": report.weights,
        "activations": len(report.thresholds),
        "thresholds": dict(list(report.thresholds.items())[:SHOWN]),
        "items": items,
    }
    if kind.op_types is not None:
        values["without_kernel"] = len(report.without_kernel)
    return values


STAGE = Stage(
    name="quantize",
    version=1,
    repeats=Repeats.BYTES,
    inputs=("onnx", "samples"),
    outputs=("onnx",),
    tools=("onnx", "onnxruntime", "numpy", "protobuf"),
    scope=Scope.CPU,
    memory=Memory(base_mib=512, per_input=10.0),
    seconds=5.0,
    run=run,
)
