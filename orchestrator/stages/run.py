"""run: an artifact on the samples, in the target's runtime."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from orchestrator.backends.base import backend, job_of, scope_of, tools_of
from orchestrator.errors import StageError
from orchestrator.numerics.batches import Batch, read_index, write_batches
from orchestrator.stages.base import Context, Json, Memory, Repeats, Stage, Use

if TYPE_CHECKING:
    import numpy as np


def run(ctx: Context) -> Json:
    """Run the tree ``model`` on every batch of ``samples`` and write ``outputs``, batch by batch.

    For ONNX Runtime ``params["target"]["optimization_level"]`` is the level the tree is loaded at:
    ``none`` for an ONNX tree that is checked as it stands, the session's own for a session tree;
    one thread, so that the same outputs come again.

    Returns:
        ``outputs``: {name: {"dtype": …}} in the order of ``params["outputs"]``.

    Raises:
        StageError: an output that was asked for is missing; samples that do not fit the inputs; a
            node that fails.
    """
    target = ctx.params["target"]
    wanted: list[str] = list(ctx.params["outputs"])
    samples = ctx.inputs["samples"]
    if not read_index(samples):
        raise StageError("there are no sample batches to run on", where="model.samples")
    runtime = backend(target["backend"])
    computed = runtime.run(ctx.inputs["model"], samples, wanted, target, job_of(ctx))
    dtypes: dict[str, str] = {}
    write_batches(ctx.outputs["outputs"], _noted(computed, dtypes))
    return {"outputs": {name: {"dtype": dtypes[name]} for name in wanted if name in dtypes}}


def _noted(
    computed: Iterator[tuple[Batch, dict[str, np.ndarray[Any, Any]]]], dtypes: dict[str, str]
) -> Iterator[tuple[Batch, dict[str, np.ndarray[Any, Any]]]]:
    for batch, outputs in computed:
        dtypes.update({name: array.dtype.name for name, array in outputs.items()})
        yield batch, outputs


STAGE: Final = Stage(
    name="run",
    version=1,
    repeats=Repeats.BYTES,
    inputs=("model", "samples"),
    outputs=("outputs",),
    tools=tools_of,
    scope=scope_of,
    device=Use.SHARED,
    memory=Memory(base_mib=512, per_input=6.0),
    seconds=1.0,
    run=run,
)
