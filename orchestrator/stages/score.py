"""score: the task metric of the reference and of an artifact on the same items."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from orchestrator.errors import StageError, nearest
from orchestrator.numerics.batches import read_batches, read_labels
from orchestrator.stages.base import Context, Json, Memory, Repeats, Scope, Stage

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]


def run(ctx: Context) -> Json:
    """Compute ``params["metric"]`` on ``reference`` and on ``outputs``.

    A built-in metric sees ``params["output"]`` (the first output when null); a user's function
    ``package.module:function`` sees every output: ``f(*, outputs, reference, labels) -> float``.

    Returns:
        ``reference``, ``artifact``: the metric; null where it is not finite. ``items``: how many.

    Raises:
        StageError: an unknown metric or output, missing labels, outputs that cannot be joined along
            axis 0, or a function that fails or gives no number.
    """
    from orchestrator.numerics.tasks import BUILTIN

    name: str = ctx.params["metric"]
    reference, artifact = _joined(ctx.inputs["reference"]), _joined(ctx.inputs["outputs"])
    labels = read_labels(ctx.inputs["samples"])
    items = len(next(iter(reference.values())))
    if name in BUILTIN:
        output = ctx.params.get("output") or next(iter(reference))
        for outputs in (reference, artifact):
            if output not in outputs:
                raise StageError(
                    f"there is no output '{output}'; there is {', '.join(outputs)}",
                    where="model.task.output",
                    hint=nearest(output, outputs),
                )
        metric = BUILTIN[name]
        reference, artifact = {output: reference[output]}, {output: artifact[output]}
    elif ":" in name:
        metric = ctx.observe.importing(name)
    else:
        raise StageError(
            f"there is no task metric '{name}'",
            where="model.task.metric",
            hint=nearest(name, BUILTIN) or f"use {', '.join(BUILTIN)} or package.module:function",
        )
    found: Json = {"items": items}
    for side, outputs in (("reference", reference), ("artifact", artifact)):
        with ctx.observe.calling():
            found[side] = _number(name, metric, outputs, reference, labels)
    return found


def _number(
    name: str,
    metric: Any,
    outputs: dict[str, Array],
    reference: dict[str, Array],
    labels: Array | None,
) -> float | None:
    try:
        value = float(metric(outputs=outputs, reference=reference, labels=labels))
    except StageError:
        raise
    except Exception as exc:
        raise StageError(
            f"the task metric failed: {type(exc).__name__}: {exc}",
            where=name,
            hint="it is called as f(*, outputs, reference, labels) and returns one number",
        ) from exc
    return value if math.isfinite(value) else None


def _joined(root: Path) -> dict[str, Array]:
    """Return every output of *root*, its batches joined along axis 0."""
    import numpy as np

    parts: dict[str, list[Array]] = {}
    for _, arrays in read_batches(root):
        for name, array in arrays.items():
            parts.setdefault(name, []).append(array)
    if not parts:
        raise StageError("there are no items to score", where="model.task")
    try:
        return {name: np.concatenate(arrays) for name, arrays in parts.items()}
    except ValueError as exc:
        shapes = {name: [list(a.shape) for a in arrays[:3]] for name, arrays in parts.items()}
        raise StageError(
            f"the outputs of a task must join along axis 0, which these do not: {shapes}",
            where="model.task",
            hint="set a fixed size for every dimension but the batch in the task's data",
        ) from exc


STAGE: Final = Stage(
    name="score",
    version=1,
    repeats=Repeats.BYTES,
    inputs=("reference", "outputs", "samples"),
    tools=("numpy",),
    scope=Scope.NONE,
    user_code=True,
    memory=Memory(base_mib=256, per_input=3.0),
    seconds=0.5,
    run=run,
)
