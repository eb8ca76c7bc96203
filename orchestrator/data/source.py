"""What a source of sample data is, and how the configured one is opened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, assert_never

from orchestrator.config.data import ArrayData, CallableData, Data, GeneratorData, ImageData
from orchestrator.data.ports import Array, Port
from orchestrator.stages.base import Observations


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a source is asked for, as far as it does not change from batch to batch.

    Attributes:
        ports: The model's inputs.
        batch: Name of the dynamic dimension that counts items, or None.
        paths: The declared files: ``data``, ``data.<input>``, ``labels``.
        observe: Recorder of user code and files.
        labels: Whether labels are wanted (a task), if the source has any.
        where: Config key of the source, for messages.
    """

    ports: tuple[Port, ...]
    batch: str | None
    paths: Mapping[str, Path] = field(default_factory=dict)
    observe: Observations
    labels: bool
    where: str


@dataclass(frozen=True, kw_only=True)
class Taken:
    """Arrays by input name, of any dtype, and the labels of their items."""

    arrays: Mapping[str, Array]
    labels: Array | None = None


class Source(Protocol):
    """Gives items by their index; the same index gives the same item."""

    @property
    def items(self) -> int | None:
        """How many different items there are; None when there is no end."""

    @property
    def group(self) -> int:
        """Items in one batch of a model without a dynamic batch dimension."""

    def take(self, dims: Mapping[str, int], offset: int, count: int) -> Taken:
        """Return the items from *offset* on (going round after the last), *count* of them.

        The arrays have the shape of the inputs at *dims*.

        Raises:
            StageError: when the source cannot give that.
        """


def open_source(data: Data, request: Request) -> Source:
    """Open the source that *data* configures.

    Raises:
        StageError: when its files cannot be read or do not fit the model's inputs, or it is empty.
    """
    match data:
        case GeneratorData():
            from orchestrator.data.generator import GeneratorSource

            return GeneratorSource(data, request)
        case ArrayData():
            from orchestrator.data.arrays import open_arrays

            return open_arrays(data, request)
        case ImageData():
            from orchestrator.data.images import ImageSource

            return ImageSource(data, request)
        case CallableData():
            from orchestrator.data.callables import CallableSource

            return CallableSource(data, request)
        case _:
            assert_never(data)
