"""What is measured beside an artifact: an engine that holds a model and gives calls to time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    import torch

    Arrays = Mapping[str, np.ndarray[Any, Any]]

Json = dict[str, Any]


class UnavailableError(Exception):
    """The engine cannot be measured here; the message says why, for people."""


@dataclass(frozen=True, kw_only=True)
class Calls:
    """The calls that are timed for one batch, each of which has run once.

    Attributes:
        resident: One run on inputs that are on the device; its outputs stay there.
        transferred: One run with inputs from, and outputs to, host memory; None on the CPU.
    """

    resident: Callable[[], object]
    transferred: Callable[[], object] | None = None


class Engine(Protocol):
    """A model, loaded and ready."""

    #: The stream that runs are enqueued on; None: a call returns when its run is done.
    stream: torch.cuda.Stream | None

    def calls(self, feeds: Arrays) -> Calls:
        """Return the calls for one batch.

        Raises:
            UnavailableError: the model does not run here.
            StageError: *feeds* are not what the model's declaration says.
        """

    def running(self) -> AbstractContextManager[object]:
        """Return the context in which :meth:`calls` is asked for and calls are made."""

    def facts(self) -> Json:
        """Return how it computes: ``how``, ``tf32``, versions, ``machine``."""
