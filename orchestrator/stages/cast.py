"""Stage ``cast``: an fp32 ONNX file becomes a typed fp16 one."""

from __future__ import annotations

from orchestrator.stages.base import Context, Json, Repeats, Stage


def run(ctx: Context) -> Json:
    """Lower ``onnx`` to fp16; see :mod:`orchestrator.numerics.fp16` for the rules.

    Returns:
        ``overflowed``: weight elements beyond ±65504 that kept nodes hold in fp32; ``subnormal``
        and ``flushed``: weight elements that became subnormal or zero, and zero;
        ``flushed_scalars``: one-element constants among them (an epsilon of 1e-12); ``sentinels``:
        constants meaning minus infinity that became ±65504; ``kept`` and ``lowered``: nodes by
        operator type; ``casts``: how many were inserted.

    Raises:
        StageError: see :func:`orchestrator.numerics.fp16.lower_to_fp16`.
    """
    from orchestrator.graphs import files as onnx_files
    from orchestrator.numerics.fp16 import lower_to_fp16

    precision = ctx.params["precision"]
    model = onnx_files.load(ctx.inputs["onnx"])
    ctx.progress(0.2, "deciding types")
    lowered, report = lower_to_fp16(
        model,
        keep_io=precision["keep_io"],
        keep_op_types=precision["keep_op_types"],
        keep_nodes=precision["keep_nodes"],
    )
    ctx.progress(0.8, "checking")
    onnx_files.check(onnx_files.save(lowered, ctx.outputs["onnx"]))
    constants = report.constants
    for name in constants.flushed_scalars[:20]:
        ctx.log(
            f"constant '{name}' is zero in fp16; if it guards a division, keep its node in fp32"
        )
    for name in constants.sentinels[:20]:
        ctx.log(f"constant '{name}' means minus infinity and became ±65504")
    return {
        "overflowed": constants.overflowed,
        "subnormal": constants.subnormal,
        "flushed": constants.flushed,
        "flushed_scalars": constants.flushed_scalars[:20],
        "sentinels": constants.sentinels[:20],
        "kept": report.kept,
        "lowered": report.lowered,
        "casts": report.casts,
    }


STAGE = Stage(
    name="cast",
    version=1,
    repeats=Repeats.BYTES,
    inputs=("onnx",),
    outputs=("onnx",),
    tools=("onnx", "numpy", "protobuf"),
    run=run,
)
