"""The declared inputs of a model, and the check that an array is what was declared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import StageError, nearest

Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Port:
    """One declared input.

    Attributes:
        name: Its name.
        dtype: NumPy name of its element type.
        shape: Sizes; a string names a dynamic dimension.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    @property
    def is_float(self) -> bool:
        """Whether the elements are floating-point numbers."""
        return bool(np.issubdtype(np.dtype(self.dtype), np.floating))

    def sizes(self, dims: Mapping[str, int]) -> tuple[int, ...]:
        """Return the shape with every dynamic dimension replaced by its size in *dims*."""
        return tuple(dims[size] if isinstance(size, str) else size for size in self.shape)

    def text(self) -> str:
        """Return the declaration as people write it: ``float32 [batch, 3, 8, 8]``."""
        return f"{self.dtype} [{', '.join(map(str, self.shape))}]"


def check_names(given: Sequence[str], ports: Sequence[Port], where: str) -> None:
    """Check that *given* are exactly the names of *ports*.

    Raises:
        StageError: for a name that is no input (with the nearest one), or an input not given.
    """
    known = [port.name for port in ports]
    for name in given:
        if name not in known:
            raise StageError(
                f"'{name}' is no input of the model; its inputs are {', '.join(known)}",
                where=where,
                hint=nearest(name, known) or "rename it to the input it is meant for",
            )
    missing = [name for name in known if name not in given]
    if missing:
        raise StageError(
            f"nothing is given for input '{missing[0]}'; given: {', '.join(given) or 'nothing'}",
            where=where,
            hint="give an array for every input listed under model.inputs",
        )


def conform(array: Array, port: Port, dims: Mapping[str, int], where: str) -> Array:
    """Return *array* with exactly the shape and dtype that *port* declares at *dims*.

    The dtype may change where no value does more than round: booleans to anything, integers to
    floats and to integers that hold every value present, floats to floats that stay finite. Floats
    are never turned into integers.

    Raises:
        StageError: for another shape, a dtype that cannot be converted so, NaN or infinity.
    """
    where = f"{where}, input '{port.name}'"
    sizes = port.sizes(dims)
    if array.shape != sizes:
        raise StageError(
            f"the data have shape {list(array.shape)}, but {list(sizes)} is needed for "
            f"{port.text()}{_at(port, dims)}",
            where=where,
            hint="change the data, or the shape and ranges under model.inputs and model.dims",
        )
    wanted = np.dtype(port.dtype)
    if array.dtype != wanted:
        array = _cast(array, wanted, where)
    if port.is_float and not np.isfinite(array).all():
        position = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        raise StageError(
            f"the data hold {array[position]} at {list(position)}: nothing can be compared on such "
            "inputs",
            where=where,
            hint="remove NaN and infinity from the data",
        )
    return np.ascontiguousarray(array).reshape(sizes)


def _cast(array: Array, wanted: np.dtype[Any], where: str) -> Array:
    if array.dtype.kind not in "biuf" or (array.dtype.kind == "f" and wanted.kind != "f"):
        raise StageError(
            f"the data are {array.dtype}, which cannot become the declared {wanted}",
            where=where,
            hint=f"store the data as {wanted}, or declare the dtype that the model takes",
        )
    with np.errstate(over="ignore"):
        cast = array.astype(wanted)
    kept = np.isfinite(cast) | ~np.isfinite(array) if wanted.kind == "f" else cast == array
    if not kept.all():
        raise StageError(
            f"the data are {array.dtype} and hold {array[~kept][0]}, which does not fit into the "
            f"declared {wanted}",
            where=where,
            hint="scale the data, or declare a wider dtype under model.inputs",
        )
    return cast


def _at(port: Port, dims: Mapping[str, int]) -> str:
    named = [f"{size}={dims[size]}" for size in port.shape if isinstance(size, str)]
    return f" at {', '.join(named)}" if named else ""
