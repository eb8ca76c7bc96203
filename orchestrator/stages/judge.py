"""judge: the numbers by which an artifact's outputs are held against the reference's."""

from __future__ import annotations

from typing import Final

from orchestrator.errors import StageError
from orchestrator.numerics.batches import Batch, read_batch, read_index
from orchestrator.stages.base import Context, Json, Memory, Repeats, Scope, Stage


def run(ctx: Context) -> Json:
    """Compare the batches of ``reference`` and ``outputs``, one batch in memory at a time.

    Differences in names, batches, shapes and types are values, not errors: the verdict names them.

    Returns:
        ``outputs`` and ``points`` as :mod:`orchestrator.numerics.metrics` defines them; ``missing``
        and ``unexpected`` output names; ``batches_differ``: a sentence, or null.

    Raises:
        StageError: there is no batch at all.
    """
    from orchestrator.numerics.metrics import Comparison

    declared: list[str] = list(ctx.params["outputs"])
    reference, artifact = ctx.inputs["reference"], ctx.inputs["outputs"]
    ours, theirs = read_index(reference), read_index(artifact)
    if not ours or not theirs:
        raise StageError("there are no batches to compare", where="model.samples")
    comparison = Comparison()
    missing: set[str] = set()
    found: set[str] = set()
    for number, batch in enumerate(ours):
        other = next((each for each in theirs if _same(batch, each)), None)
        if other is None:
            continue
        left, right = read_batch(reference, batch), read_batch(artifact, other)
        found |= left.keys() | right.keys()
        for name in declared:
            if name not in left or name not in right:
                missing.add(name)
                continue
            comparison.add(
                name, left[name], right[name],
                batch=batch.file, point=batch.point, items=batch.items,
            )  # fmt: skip
        ctx.progress((number + 1) / len(ours), f"batch {number + 1} of {len(ours)}")
    return {
        **comparison.values(),
        "missing": sorted(missing),
        "unexpected": sorted(found - set(declared)),
        "batches_differ": _difference(ours, theirs),
    }


def _same(one: Batch, other: Batch) -> bool:
    return (one.file, one.point, one.offset, one.items, dict(one.dims)) == (
        other.file, other.point, other.offset, other.items, dict(other.dims)
    )  # fmt: skip


def _difference(ours: list[Batch], theirs: list[Batch]) -> str | None:
    if len(ours) != len(theirs):
        return f"the reference has {len(ours)}, the artifact {len(theirs)}"
    for one, other in zip(ours, theirs, strict=True):
        if not _same(one, other):
            return f"{one.file} is {_told(one)} for the reference, {_told(other)} for the artifact"
    return None


def _told(batch: Batch) -> str:
    return f"{batch.file} ({batch.point}, items {batch.offset}+{batch.items}, {dict(batch.dims)})"


STAGE: Final = Stage(
    name="judge",
    version=1,
    repeats=Repeats.BYTES,
    inputs=("reference", "outputs"),
    tools=("numpy",),
    scope=Scope.NONE,
    memory=Memory(base_mib=256, per_input=2.0),
    seconds=0.3,
    run=run,
)
