"""Stage ``cast``: an fp32 ONNX file becomes a typed fp16 or bf16 one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from orchestrator.stages.base import Context, Json, Memory, Repeats, Stage

if TYPE_CHECKING:
    from orchestrator.numerics.half_constants import ConstantReport
    from orchestrator.numerics.half_types import HalfType

SHOWN = 20
"""Names of constants that are reported at most."""


def _tools(params: Mapping[str, Any]) -> tuple[str, ...]:
    rounds_with = ("ml_dtypes",) if params["precision"]["name"] == "bf16" else ()
    return ("onnx", "numpy", "protobuf", *rounds_with)


def run(ctx: Context) -> Json:
    """Lower ``onnx`` to the half type ``precision.name``.

    See :mod:`orchestrator.numerics.half` for the rules. What rounding did to constants is logged.

    Returns:
        ``overflowed``: weight elements beyond the type's range that kept nodes hold in fp32;
        ``subnormal`` and ``flushed``: weight elements that became subnormal or zero, and zero;
        ``flushed_scalars``: one-element constants among them (an epsilon of 1e-12); ``sentinels``:
        constants meaning minus infinity that became the type's largest number with a sign; ``kept``
        and ``lowered``: nodes by operator type; ``casts``: how many were inserted.

    Raises:
        StageError: see :func:`orchestrator.numerics.half.lower_to_half`.
    """
    from orchestrator.graphs import files as onnx_files
    from orchestrator.numerics.half import lower_to_half
    from orchestrator.numerics.half_types import HALF_TYPES

    precision = ctx.params["precision"]
    half = HALF_TYPES[precision["name"]]
    model = onnx_files.load(ctx.inputs["onnx"])
    ctx.progress(0.2, "deciding types")
    lowered, report = lower_to_half(
        model,
        half,
        keep_io=precision["keep_io"],
        keep_op_types=precision["keep_op_types"],
        keep_nodes=precision["keep_nodes"],
    )
    ctx.progress(0.8, "checking")
    onnx_files.check(onnx_files.save(lowered, ctx.outputs["onnx"]))
    constants = report.constants
    for line in _remarks(constants, half):
        ctx.log(line)
    return {
        "overflowed": constants.overflowed,
        "subnormal": constants.subnormal,
        "flushed": constants.flushed,
        "flushed_scalars": constants.flushed_scalars[:SHOWN],
        "sentinels": constants.sentinels[:SHOWN],
        "kept": report.kept,
        "lowered": report.lowered,
        "casts": report.casts,
    }


def _remarks(constants: ConstantReport, half: HalfType) -> Iterator[str]:
    for name in constants.flushed_scalars[:SHOWN]:
        yield (
            f"constant '{name}' is zero in {half.name}; if it guards a division, keep its node in "
            "fp32"
        )
    for name in constants.sentinels[:SHOWN]:
        yield f"constant '{name}' means minus infinity and became ±{half.largest:g}"
    for name in constants.miscounted[:SHOWN]:
        yield (
            f"constant '{name}' holds whole numbers that {half.name} rounds (it counts exactly to "
            f"{half.counts_to}); if they are positions or sizes, keep their node in fp32"
        )


STAGE = Stage(
    name="cast",
    version=1,
    repeats=Repeats.BYTES,
    inputs=("onnx",),
    outputs=("onnx",),
    tools=_tools,
    memory=Memory(base_mib=256, per_input=6.0),
    seconds=1.0,
    run=run,
)
