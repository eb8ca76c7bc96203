"""Reference: what the PyTorch module itself computes on the samples."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from orchestrator.stages.base import Context, Json, Memory, Repeats, Scope, Stage

if TYPE_CHECKING:
    import numpy as np

    from orchestrator.numerics.batches import Batch


def run(ctx: Context) -> Json:
    """Run the module on every batch of ``samples`` and write ``outputs``, batch by batch.

    Values that are not finite are written as they are; judging them is the judge's part.

    Returns:
        ``outputs``: name to ``{"dtype"}``.

    Raises:
        StageError: when the module cannot be made, does not take the inputs, or returns another
            number of outputs.
    """
    import torch

    from orchestrator.modules import calls
    from orchestrator.modules import loading as models
    from orchestrator.numerics.batches import read_batches, read_index, write_batches

    names: list[str] = ctx.params["outputs"]
    dtypes: dict[str, Json] = {}
    module = models.load_module(ctx)
    total = len(read_index(ctx.inputs["samples"]))

    def computed() -> Iterator[tuple[Batch, dict[str, np.ndarray[Any, Any]]]]:
        for number, (batch, arrays) in enumerate(read_batches(ctx.inputs["samples"])):
            ctx.progress(number / total, f"batch {number + 1} of {total}")
            tensors = calls.input_tensors(arrays, ctx.params["inputs"])
            results = calls.call(module, tensors, names)
            found = {name: calls.to_array(t) for name, t in zip(names, results, strict=True)}
            dtypes.update({name: {"dtype": str(array.dtype)} for name, array in found.items()})
            yield batch, found

    with torch.inference_mode(), ctx.observe.calling():
        write_batches(ctx.outputs["outputs"], computed())
    return {"outputs": dtypes}


STAGE = Stage(
    name="reference",
    version=1,
    repeats=Repeats.VERDICT,
    inputs=("samples",),
    outputs=("outputs",),
    tools=("torch",),
    scope=Scope.CPU,
    user_code=True,
    memory=Memory(base_mib=1024, per_input=5.0),
    seconds=2.0,
    run=run,
)
