"""Random data from a seed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from orchestrator.config.data import Generator, GeneratorData
from orchestrator.data.ports import Array, Port, check_names
from orchestrator.data.source import Request, Taken
from orchestrator.errors import StageError


class GeneratorSource:
    """Draws every input of every batch from a PCG64 of its own.

    The stream is seeded by (seed, input name, offset), so a batch does not depend on which batches
    or inputs were drawn before it. The endless source has no labels.
    """

    items: Final = None
    group: Final = 1

    def __init__(self, data: GeneratorData, request: Request) -> None:
        """Check that every input can be drawn as configured.

        Raises:
            StageError: for a distribution that does not suit the input, or an unknown input name.
        """
        names = [port.name for port in request.ports]
        check_names(
            [*data.inputs, *(n for n in names if n not in data.inputs)],
            request.ports,
            f"{request.where}.inputs",
        )
        if data.seed < 0:
            raise StageError(
                f"a seed of {data.seed} is negative",
                where=f"{request.where}.seed",
                hint="use 0 or more",
            )
        self._seed = data.seed
        self._drawn = [(port, data.inputs.get(port.name, Generator())) for port in request.ports]
        for port, how in self._drawn:
            _check(port, how, f"{request.where}.inputs.{port.name}")

    def take(
        self,
        dims: Mapping[str, int],
        offset: int,
        count: int,  # noqa: ARG002 - part of Source; dims say it already
    ) -> Taken:
        """Draw one batch at *dims*; see :class:`orchestrator.data.source.Source`."""
        return Taken(
            arrays={
                port.name: _draw(self._stream(port.name, offset), how, port.sizes(dims))
                for port, how in self._drawn
            }
        )

    def _stream(self, name: str, offset: int) -> np.random.Generator:
        digest = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
        return np.random.Generator(np.random.PCG64([self._seed, digest, offset]))


def _draw(stream: np.random.Generator, how: Generator, sizes: tuple[int, ...]) -> Array:
    array: Any
    match how.distribution:
        case "normal":
            array = stream.normal(how.mean, how.std, sizes)
        case "uniform":
            array = stream.uniform(how.low, how.high, sizes)
        case "integers":
            array = stream.integers(int(how.low), int(how.high), sizes, dtype=np.int64)
        case "constant":
            array = np.full(sizes, int(how.value) if how.value.is_integer() else how.value)
    return np.asarray(array)


def _check(port: Port, how: Generator, where: str) -> None:
    if not port.is_float and how.distribution in ("normal", "uniform"):
        raise StageError(
            f"'{how.distribution}' draws fractions, but the input is {port.dtype}",
            where=where,
            hint="use distribution: integers with low and high (exclusive)",
        )
    if how.distribution in ("uniform", "integers") and not how.low < how.high:
        raise StageError(
            f"low {how.low:g} is not below high {how.high:g}", where=where, hint="needs low < high"
        )
    if how.distribution == "integers" and not (how.low.is_integer() and how.high.is_integer()):
        raise StageError(
            f"integers from {how.low:g} to {how.high:g}: bounds must be whole numbers",
            where=where,
            hint="round them",
        )
