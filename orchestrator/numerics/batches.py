"""Batches of named arrays in a directory: how samples and outputs travel between actions.

A directory holds ``index.json`` and one uncompressed ``NNN.npz`` a batch. Samples and the outputs
computed from them have the same batches in the same order, so they are compared file by file.
``labels.npy`` (samples of a task only) holds the labels of all items, in order.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.errors import StageError

if TYPE_CHECKING:
    import numpy as np

    Arrays = Mapping[str, np.ndarray[Any, Any]]

INDEX = "index.json"
LABELS = "labels.npy"


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One batch: its file, the shape point it stands for and the size of each dynamic dimension.

    Attributes:
        file: File name in the directory.
        point: ``min``, ``opt`` or ``max`` of the profile, ``min 2`` … of a second one, or ``task``
            or ``calibration``.
        dims: Size of each named dynamic dimension.
        offset: Index of the batch's first item in the data source.
        items: Items in the batch (size of axis 0 where that is the batch, otherwise 1).
    """

    file: str
    point: str
    dims: Mapping[str, int]
    offset: int
    items: int


def write_batches(
    root: Path,
    batches: Iterable[tuple[Batch, Arrays]],
    *,
    labels: np.ndarray[Any, Any] | None = None,
) -> list[Batch]:
    """Write *batches* (streamed, one in memory at a time) and their index to *root*."""
    import numpy as np

    index: list[Batch] = []
    for batch, arrays in batches:
        with (root / batch.file).open("wb") as file:
            # allow_pickle=False: an object array is an error, never a pickle in the store.
            np.savez(file, allow_pickle=False, **arrays)
        index.append(batch)
    if labels is not None:
        np.save(root / LABELS, labels, allow_pickle=False)
    (root / INDEX).write_text(
        json.dumps({"format": 1, "batches": [asdict(batch) for batch in index]}, indent=1) + "\n"
    )
    return index


def read_index(root: Path) -> list[Batch]:
    """Return the batches of *root* in order, without their arrays."""
    return [Batch(**entry) for entry in json.loads((root / INDEX).read_text())["batches"]]


def measured_batch(root: Path) -> Batch:
    """Return the first ``opt`` batch of *root*, or the first of all where there is none.

    Raises:
        StageError: there are no batches.
    """
    batches = read_index(root)
    if not batches:
        raise StageError("there are no sample batches to run on", where="model.samples")
    return next((batch for batch in batches if batch.point == "opt"), batches[0])


def read_batch(root: Path, batch: Batch) -> dict[str, np.ndarray[Any, Any]]:
    """Return the arrays of one batch of *root*."""
    import numpy as np

    with np.load(root / batch.file, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def read_batches(root: Path) -> Iterator[tuple[Batch, dict[str, np.ndarray[Any, Any]]]]:
    """Yield every batch of *root* with its arrays, one in memory at a time."""
    for batch in read_index(root):
        yield batch, read_batch(root, batch)


def read_labels(root: Path) -> np.ndarray[Any, Any] | None:
    """Return the labels of all items of *root*, or None when it has none."""
    import numpy as np

    path = root / LABELS
    return np.load(path, allow_pickle=False) if path.exists() else None
