"""What an exporter is asked for and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from onnx import ModelProto


@dataclass(frozen=True, kw_only=True)
class ExportRequest:
    """One export.

    Attributes:
        module: The module, callable with positional tensors and returning a flat tuple
            (:func:`orchestrator.modules.calls.positional`).
        inputs: Example tensors by input name, in declared order.
        outputs: Output names in order.
        axes: For each input the dynamic axes and the names of their dimensions.
        ranges: Least and greatest size of each dynamic dimension.
        opset: Opset of the default domain that the file must have.
        constant_folding: Fold constants during the export.
        optimize: dynamo only: run onnxscript's optimizer.
        scratch: Directory for temporary files.
        log: Receives what the exporter prints and warns.
    """

    module: torch.nn.Module
    inputs: Mapping[str, torch.Tensor]
    outputs: Sequence[str]
    axes: Mapping[str, Mapping[int, str]]
    ranges: Mapping[str, tuple[int, int]]
    opset: int
    constant_folding: bool
    optimize: bool
    scratch: Path
    log: Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What an exporter made: the model, and where each node came from.

    ``provenance`` maps a node name to ``{"op": torch operator or "", "module": dotted path in the
    model,
    "source": "file.py:line" or ""}``.
    """

    model: ModelProto
    provenance: dict[str, dict[str, str]]


def axes_of(
    inputs: Mapping[str, Mapping[str, Any]], dims: Mapping[str, Sequence[int]]
) -> dict[str, dict[int, str]]:
    """Return the dynamic axes of each declared input; a dimension with min == max is static."""
    return {
        name: {
            axis: size
            for axis, size in enumerate(declared["shape"])
            if isinstance(size, str) and dims[size][0] < dims[size][1]
        }
        for name, declared in inputs.items()
    }
