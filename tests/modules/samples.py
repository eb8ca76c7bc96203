"""Sample trees and export parameters for the tiny modules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.numerics.batches import Batch, write_batches

Shape = Sequence[Any]  # sizes; a str names a dynamic dimension


def write_samples(
    root: Path, inputs: Mapping[str, Any], points: Mapping[str, Mapping[str, int]]
) -> Path:
    """Write one random batch for each of *points* (name to dimension sizes) to *root*."""
    rng = np.random.default_rng(3)

    def draw(declared: Mapping[str, Any], dims: Mapping[str, int]) -> np.ndarray[Any, Any]:
        shape = [dims[s] if isinstance(s, str) else s for s in declared["shape"]]
        if declared["dtype"].startswith("int"):
            return rng.integers(1, 9, shape).astype(declared["dtype"])
        return rng.standard_normal(shape).astype(declared["dtype"])

    root.mkdir(parents=True, exist_ok=True)
    write_batches(
        root,
        (
            (
                Batch(file=f"{n:03}.npz", point=point, dims=dims, offset=n, items=1),
                {name: draw(declared, dims) for name, declared in inputs.items()},
            )
            for n, (point, dims) in enumerate(points.items())
        ),
    )
    return root


def export_params(
    factory: str,
    inputs: Mapping[str, tuple[str, Shape]],
    outputs: Sequence[str],
    *,
    dims: Mapping[str, Sequence[int]] | None = None,
    args: Mapping[str, Any] | None = None,
    exporter: str = "dynamo",
    opset: int = 18,
    **options: Any,
) -> dict[str, Any]:
    """Return the parameters of the stage `export`; `reference` takes a part of them."""
    return {
        "factory": f"tests.modules.nets:{factory}",
        "args": dict(args or {}),
        "checkpoint": None,
        "inputs": {n: {"dtype": dt, "shape": list(shape)} for n, (dt, shape) in inputs.items()},
        "outputs": list(outputs),
        "dims": {name: list(size) for name, size in (dims or {}).items()},
        "exporter": {"name": exporter, "opset": opset, **options},
    }
