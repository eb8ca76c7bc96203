"""Data from a user's function."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np

from orchestrator.config.data import CallableData
from orchestrator.data.ports import Array, check_names
from orchestrator.data.source import Request, Taken
from orchestrator.errors import OrchestrateError, StageError
from orchestrator.plan.sources import is_standard_library

SIGNATURE: Final = "f(*, dims, offset, seed, **args) -> {input name: array}"


class CallableSource:
    """Calls ``f(*, dims, offset, seed, **args)`` once a batch.

    The function gets the size of each dynamic dimension and the index of the batch's first item,
    and returns a complete batch. It must give the same for the same arguments; where its data end
    is its own affair, so the source counts as endless.
    """

    items: Final = None
    group: Final = 1

    def __init__(self, data: CallableData, request: Request) -> None:
        """Import the function.

        Raises:
            StageError: when it cannot be imported.
        """
        self._data = data
        self._request = request
        self._where = f"{request.where}.function {data.function}"
        self._function = request.observe.importing(data.function)

    def take(self, dims: Mapping[str, int], offset: int, count: int) -> Taken:
        """Call the function for one batch; see :class:`orchestrator.data.source.Source`."""
        data = self._data
        try:
            with self._request.observe.calling():
                result = self._function(dims=dict(dims), offset=offset, seed=data.seed, **data.args)
        except OrchestrateError:
            raise  # a message made for the user, by one of our own examples or a user who knows us
        except Exception as exc:
            raise StageError(
                f"failed at dims={dict(dims)}, offset={offset}: {type(exc).__name__}: {exc}"
                + _line_of(exc),
                where=self._where,
                hint=f"it is called as {SIGNATURE}",
            ) from exc
        if not isinstance(result, Mapping):
            raise StageError(
                f"returned a {type(result).__name__}, not a dictionary of arrays",
                where=self._where,
                hint=f"it is called as {SIGNATURE}",
            )
        arrays = {
            str(name): _as_array(value, str(name), self._where) for name, value in result.items()
        }
        labels = self._labels(arrays, count)
        check_names(list(arrays), self._request.ports, self._where)
        return Taken(arrays=arrays, labels=labels)

    def _labels(self, arrays: dict[str, Array], count: int) -> Array | None:
        """Take the labels out of *arrays*; None when the data have none."""
        name = self._data.labels
        if name is None:
            return None
        labels = arrays.pop(name, None)
        if labels is None:
            raise StageError(
                f"returned no '{name}', which `labels` names",
                where=self._where,
                hint=f"return it beside the inputs; returned: {', '.join(arrays)}",
            )
        if labels.shape[:1] != (count,):
            raise StageError(
                f"returned labels '{name}' of shape {list(labels.shape)} for {count} items",
                where=self._where,
                hint="return one label an item along axis 0",
            )
        return labels


def _line_of(exc: BaseException) -> str:
    """Return `` (file.py:12)`` for the deepest line of the user's own code, or ``""``."""
    frames = traceback.extract_tb(exc.__traceback__)[1:]  # the first is ours
    paths = [(Path(frame.filename), frame.lineno) for frame in frames]
    own = [
        (path, line)
        for path, line in paths
        if "site-packages" not in path.parts and not is_standard_library(path)
    ]
    return "".join(f" ({path.name}:{line})" for path, line in own[-1:])


def _as_array(value: object, name: str, where: str) -> Array:
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as exc:
        raise StageError(f"'{name}' is no array: {exc}", where=where) from exc
    if array.dtype.hasobject:
        raise StageError(
            f"'{name}' is an array of Python objects",
            where=where,
            hint="return numbers; rows of unequal length must be padded",
        )
    return array
