"""Task metrics: one number for how well outputs serve their purpose.

Every metric has one signature, that of a user's own:
``f(*, outputs, reference, labels) -> float``, with ``outputs`` and ``reference`` as {name: array}
over all items in order, and ``labels`` an array or None. Higher is better.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np

from orchestrator.errors import StageError

Array = np.ndarray[Any, Any]
Outputs = Mapping[str, Array]
Metric = Callable[..., float]


def top1(
    *,
    outputs: Outputs,
    reference: Outputs,  # noqa: ARG001  (the signature of every metric)
    labels: Array | None,
) -> float:
    """Return the share of labels that are the argmax of the logits over their last axis.

    Args:
        outputs: One output, logits ``[N, …, C]``.
        reference: Not used.
        labels: Integers ``[N, …]``.

    Raises:
        StageError: no labels, or of another shape than the predictions.
    """
    logits = _only(outputs)
    if labels is None:
        raise StageError(
            "top1 needs labels, and the task's data has none",
            where="model.task",
            hint="set the labels of model.task.data (labels: NAME, or labels: true for images)",
        )
    if logits.ndim < 2:
        raise StageError(
            f"top1 needs logits [N, C], got shape {list(logits.shape)}", where="model.task"
        )
    predicted = logits.argmax(axis=-1)
    if predicted.shape != labels.shape:
        raise StageError(
            f"top1 has labels of shape {list(labels.shape)} for predictions of shape "
            f"{list(predicted.shape)}",
            where="model.task",
        )
    return float((predicted == labels).mean())


def nearest_neighbour(
    *,
    outputs: Outputs,
    reference: Outputs,
    labels: Array | None,  # noqa: ARG001  (the signature of every metric)
) -> float:
    """Return the share of items whose nearest other item is the same as under the reference.

    Nearest is by cosine similarity, in float64; ties go to the first item.

    Args:
        outputs: One output, embeddings ``[N, D]``.
        reference: The same output of the reference.
        labels: Not used.

    Raises:
        StageError: fewer than three items (two are always each other's nearest), or no ``[N, D]``.
    """
    ours, theirs = _only(outputs), _only(reference)
    for array in (ours, theirs):
        if array.ndim != 2 or len(array) < 3:
            raise StageError(
                f"nearest_neighbour needs embeddings [N, D] of 3 items or more, got "
                f"{list(array.shape)}",
                where="model.task",
                hint="raise model.task.count, or set model.task.output to a pooled embedding",
            )
    return float((_nearest(ours) == _nearest(theirs)).mean())


def _nearest(embeddings: Array) -> Array:
    rows = np.asarray(embeddings, dtype=np.float64)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    rows = rows / np.where(norms > 0, norms, 1.0)
    found = np.empty(len(rows), dtype=np.int64)
    step = 512  # rows of the similarity matrix in memory at a time
    for start in range(0, len(rows), step):
        similar = rows[start : start + step] @ rows.T
        similar[np.arange(len(similar)), np.arange(start, start + len(similar))] = -np.inf
        found[start : start + step] = similar.argmax(axis=1)
    return found


def _only(outputs: Outputs) -> Array:
    return next(iter(outputs.values()))


BUILTIN: Final[Mapping[str, Metric]] = {"top1": top1, "nearest_neighbour": nearest_neighbour}
