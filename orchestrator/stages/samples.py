"""Takes sample inputs from their source: the batches that everything is computed on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from orchestrator.stages.base import Context, Json, Memory, Repeats, Stage


def run(ctx: Context) -> Json:
    """Write the batches that the parameters ask for.

    Parameters are ``data`` (a group of ``orchestrator.config.schema.Data`` without its paths),
    ``inputs``, ``dims``, ``purpose``, ``batches`` and ``count``; where there are further profiles,
    ``further`` is a list of their ``dims``, for ``compare``. The batch dimension is the dynamic one
    on axis 0 of every input; without it a batch is one item, or as many as a fixed axis 0 says
    where the data are arrays or images that count items there.

    ``compare`` takes one batch with all dimensions at their minimum, ``batches`` at the optimum,
    one at the maximum, from successive items, starting again when the source ends; then one each at
    minimum, optimum and maximum of every further profile, as far as they are other sizes. ``task``
    and ``calibration`` take ``count`` items at the optimum, each once; a task that asks for more
    than there are is an error, a calibration takes all. For the last batch see
    :func:`orchestrator.data.points.counted_batches`; for dtypes that are converted see
    :func:`orchestrator.data.ports.conform`. A task has labels when the source has them.

    Returns:
        ``items``: places filled, over all batches; ``points``: for ``min``, ``opt``, ``max`` (of
        further profiles ``min 2`` and so on), ``task`` or ``calibration`` the ``dims`` of the first
        batch, ``batches`` and ``items``.

    Raises:
        StageError: when the source is empty or unreadable, lacks an input, or gives other shapes or
            dtypes than declared, NaN or infinity; or when user code fails.
    """
    from orchestrator.data.take import take_samples

    return take_samples(ctx)


def _tools(params: Mapping[str, Any]) -> tuple[str, ...]:
    return ("numpy", "pillow") if params["data"]["kind"] == "images" else ("numpy",)


STAGE: Final = Stage(
    name="samples",
    version=1,
    repeats=Repeats.BYTES,
    outputs=("samples",),
    tools=_tools,
    user_code=True,
    memory=Memory(base_mib=256, per_input=3.0),
    seconds=1.0,
    run=run,
)
