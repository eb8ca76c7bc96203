"""run: an artifact on the samples, in the target's runtime."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from orchestrator.backends.base import Job, Runner, backend, tools_of
from orchestrator.errors import StageError, nearest
from orchestrator.numerics.batches import Batch, read_batch, read_index, write_batches
from orchestrator.stages.base import Context, Json, Repeats, Scope, Stage

if TYPE_CHECKING:
    import numpy as np


def run(ctx: Context) -> Json:
    """Run the tree ``model`` on every batch of ``samples`` and write ``outputs``, batch by batch.

    ``params["target"]["optimization_level"]`` is the level the tree is loaded at: ``none`` for an
    ONNX tree that is checked as it stands, the session's own for a session tree. One thread, so
    that the same outputs come again.

    Returns:
        ``outputs``: {name: {"dtype": …}} in the order of ``params["outputs"]``.

    Raises:
        StageError: an output that was asked for is missing; samples that do not fit the inputs; a
            node that fails.
    """
    target = ctx.params["target"]
    wanted: list[str] = list(ctx.params["outputs"])
    job = Job(scratch=ctx.scratch, log=ctx.log, threads=1)
    dtypes: dict[str, str] = {}
    with backend(target["backend"]).open(ctx.inputs["model"], target, job) as runner:
        _check_outputs(runner, wanted)
        write_batches(ctx.outputs["outputs"], _computed(ctx, runner, wanted, dtypes))
    return {"outputs": {name: {"dtype": dtypes[name]} for name in wanted if name in dtypes}}


def _computed(
    ctx: Context, runner: Runner, wanted: list[str], dtypes: dict[str, str]
) -> Iterator[tuple[Batch, dict[str, np.ndarray[Any, Any]]]]:
    samples = ctx.inputs["samples"]
    batches = read_index(samples)
    if not batches:
        raise StageError("there are no sample batches to run on", where="model.samples")
    for number, batch in enumerate(batches):
        feeds = read_batch(samples, batch)
        try:
            outputs = runner(feeds)
        except StageError:
            ctx.log(f"failed in batch {batch.file}, point {batch.point}, dims {dict(batch.dims)}")
            raise
        dtypes.update({name: outputs[name].dtype.name for name in wanted})
        yield batch, {name: outputs[name] for name in wanted}
        ctx.progress((number + 1) / len(batches), f"batch {number + 1} of {len(batches)}")


def _check_outputs(runner: Runner, wanted: list[str]) -> None:
    names = [port.name for port in runner.outputs]
    for name in wanted:
        if name not in names:
            raise StageError(
                f"the model has no output '{name}'; it has {', '.join(names)}",
                where="model.outputs",
                hint=nearest(name, names) or "declare the outputs in the model's own order",
            )


STAGE: Final = Stage(
    name="run",
    version=1,
    repeats=Repeats.BYTES,
    inputs=("model", "samples"),
    outputs=("outputs",),
    tools=tools_of,
    scope=Scope.CPU,
    run=run,
)
