"""Data from NumPy files: one ``.npz``, or a ``.npy`` an input."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from orchestrator.config.data import ArrayData
from orchestrator.data.ports import Array, Port, check_names
from orchestrator.data.source import Request, Taken
from orchestrator.errors import StageError, nearest


class ArraySource:
    """Items along axis 0 of arrays, one array an input.

    With a batch dimension, or a fixed size of axis 0 that all inputs share, an array has the rank
    of its input and its axis 0 is the input's. Otherwise each row of the array is a complete input,
    so the array has one axis more. Other dynamic axes are cut to the size wanted; they must be at
    least that long. Fixed axes must agree.
    """

    def __init__(
        self, arrays: Mapping[str, Array], labels: Array | None, data: ArrayData, request: Request
    ) -> None:
        """Check lengths, ranks and the chosen range of items.

        Raises:
            StageError: when they do not fit the model's inputs, or no item is left.
        """
        self._arrays = arrays
        self._labels = labels
        self._data = data
        self._request = request
        self.items = self._count()
        self.group = self._group()

    def take(self, dims: Mapping[str, int], offset: int, count: int) -> Taken:
        """Return *count* items from *offset*; see :class:`orchestrator.data.source.Source`."""
        rows = (offset + np.arange(count)) % self.items + self._data.start
        return Taken(
            arrays={port.name: self._rows(port, rows, dims) for port in self._request.ports},
            labels=None if self._labels is None else self._labels[rows],
        )

    def _rows(self, port: Port, rows: Array, dims: Mapping[str, int]) -> Array:
        array = self._arrays[port.name]
        complete = array.ndim > len(port.shape)
        for axis, size in list(enumerate(port.sizes(dims)))[0 if complete else 1 :]:
            stored_axis = axis + complete
            self._check_size(port, axis, size, array.shape[stored_axis], stored_axis)
        wanted = port.sizes(dims) if complete else port.sizes(dims)[1:]
        # The cut comes first: on a memory-mapped file only what is used is read.
        cut = array[(slice(None), *(slice(size) for size in wanted))]
        taken: Array = np.asarray(cut[rows[0]] if complete else cut[rows])
        if self._data.scale == 1.0:
            return taken
        return taken.astype(np.float64) * self._data.scale

    def _check_size(
        self, port: Port, axis: int, wanted: int, stored: int, stored_axis: int
    ) -> None:
        dim = port.shape[axis]
        if isinstance(dim, str) and stored < wanted:
            raise StageError(
                f"axis {stored_axis} of the array has {stored} elements, but dimension '{dim}' "
                f"reaches {wanted}",
                where=f"{self._request.where}, input '{port.name}'",
                hint=f"give at least {wanted} elements, or lower the range of '{dim}'",
            )
        if not isinstance(dim, str) and stored != wanted:
            raise StageError(
                f"axis {stored_axis} of the array has {stored} elements, but the input is declared "
                f"as {port.text()}",
                where=f"{self._request.where}, input '{port.name}'",
                hint="change the data, or model.inputs",
            )

    def _count(self) -> int:
        named = {f"input '{name}'": array for name, array in self._arrays.items()}
        if self._labels is not None:
            named["labels"] = self._labels
        for name, array in named.items():
            if array.ndim == 0:
                raise StageError(
                    f"the array for {name} is a single number; axis 0 must count the items",
                    where=self._request.where,
                    hint="store an array with one row an item",
                )
        lengths = {name: len(array) for name, array in named.items()}
        if len(set(lengths.values())) > 1:
            raise StageError(
                f"the arrays differ in their number of items: "
                f"{', '.join(f'{name} has {n}' for name, n in lengths.items())}",
                where=self._request.where,
                hint="axis 0 of every array counts the items",
            )
        there = next(iter(lengths.values()))
        start, stop = self._data.start, self._data.stop or there
        if stop > there:
            raise StageError(
                f"stop is {stop}, but there are {there} items",
                where=self._request.where,
                hint=f"use stop: {there} or less",
            )
        if start >= stop:
            raise StageError(
                f"no item is left: {there} items, start {start}, stop {stop}",
                where=self._request.where,
                hint="give data, or widen start and stop",
            )
        return stop - start

    def _group(self) -> int:
        groups = {port.name: self._group_of(port) for port in self._request.ports}
        if len(set(groups.values())) > 1:
            raise StageError(
                f"the inputs take different numbers of rows at a time: {groups}",
                where=self._request.where,
                hint="add an axis 0 that counts complete inputs to every array",
            )
        return next(iter(groups.values()))

    def _group_of(self, port: Port) -> int:
        """Return how many rows one batch takes; fixed axis 0, or 1 where a row is a whole input."""
        array, rank = self._arrays[port.name], len(port.shape)
        first = port.shape[0] if port.shape else None
        if self._request.batch is None and array.ndim == rank + 1:
            return 1
        if array.ndim == rank and (first == self._request.batch or isinstance(first, int)):
            return first if isinstance(first, int) else 1
        wanted = port.text() if self._request.batch else f"one row for each whole {port.text()}"
        raise StageError(
            f"the array has shape {list(array.shape)}, which does not give {wanted}",
            where=f"{self._request.where}, input '{port.name}'",
            hint="axis 0 of the array counts the items; the other axes are the input's",
        )


def open_arrays(data: ArrayData, request: Request) -> ArraySource:
    """Open the files of *data*: ``.npy`` files memory-mapped, of an ``.npz`` only what is named.

    Raises:
        StageError: when a file cannot be read, holds Python objects, or lacks an array.
    """
    for port in request.ports:
        if data.scale != 1.0 and not port.is_float:
            raise StageError(
                f"scale {data.scale:g} cannot apply to input '{port.name}' of {port.dtype}",
                where=f"{request.where}.scale",
                hint="scale the data beforehand, or declare a float dtype",
            )
    arrays, labels = _npz(data, request) if data.kind == "npz" else _npy(request)
    return ArraySource(arrays, labels, data, request)


def _npz(data: ArrayData, request: Request) -> tuple[dict[str, Array], Array | None]:
    names = {port.name: port.name for port in request.ports} | data.arrays
    check_names(list(names), request.ports, f"{request.where}.arrays")
    loaded = _load(request.paths["data"], request.where)
    if isinstance(loaded, np.ndarray):
        raise StageError(
            "the file is a single array, not an archive", where=request.where, hint="use kind: npy"
        )
    with loaded as archive:
        arrays = {
            name: _member(archive, array, f"{request.where}.arrays.{name}")
            for name, array in names.items()
        }
        if data.labels is None or not request.labels:
            return arrays, None
        return arrays, _member(archive, data.labels, f"{request.where}.labels")


def _npy(request: Request) -> tuple[dict[str, Array], Array | None]:
    files = {
        key.removeprefix("data."): path
        for key, path in request.paths.items()
        if key.startswith("data.")
    }
    if "data" in request.paths and not files and len(request.ports) == 1:
        files = {request.ports[0].name: request.paths["data"]}
    check_names(list(files), request.ports, f"{request.where}.arrays")
    arrays = {name: _single(path, f"{request.where}.arrays.{name}") for name, path in files.items()}
    if "labels" not in request.paths or not request.labels:
        return arrays, None
    return arrays, _single(request.paths["labels"], f"{request.where}.labels")


def _single(path: Path, where: str) -> Array:
    loaded = _load(path, where)
    if not isinstance(loaded, np.ndarray):
        loaded.close()
        raise StageError("the file is an archive of arrays", where=where, hint="use kind: npz")
    return loaded


def _load(path: Path, where: str) -> Array | np.lib.npyio.NpzFile:
    try:
        loaded: Array | np.lib.npyio.NpzFile = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as exc:
        raise StageError(
            f"{path.name} cannot be read as a NumPy file: {exc}",
            where=where,
            hint="write it with numpy.save or numpy.savez, without Python objects",
        ) from exc
    return loaded


def _member(archive: np.lib.npyio.NpzFile, name: str, where: str) -> Array:
    if name not in archive.files:
        raise StageError(
            f"the file has no array '{name}'; it has {', '.join(archive.files) or 'none'}",
            where=where,
            hint=nearest(name, archive.files) or "name the array that holds this input",
        )
    try:
        array: Array = archive[name]
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as exc:
        raise StageError(
            f"array '{name}' cannot be read: {exc}",
            where=where,
            hint="write it with numpy.savez, without Python objects",
        ) from exc
    return array
