"""Runs the samples stage on small declarations."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.numerics.batches import Batch, read_batches
from orchestrator.stages.samples import STAGE
from tests.stage_context import StageRun, run_stage

IMAGE = {"image": {"dtype": "float32", "shape": ["batch", 3]}}
BATCH = {"batch": {"min": 1, "opt": 4, "max": 6}}
GENERATOR = {"kind": "generator", "seed": 0}

Read = list[tuple[Batch, dict[str, np.ndarray]]]


def samples(
    tmp_path: Path,
    data: Mapping[str, Any],
    paths: Mapping[str, Path] | None = None,
    **changes: Any,
) -> StageRun:
    """Run the stage on one input ``image`` [batch, 3] float32, with *changes* to the parameters."""
    params = {
        "data": data,
        "inputs": IMAGE,
        "dims": BATCH,
        "purpose": "compare",
        "batches": 2,
        "count": 10,
    }
    return run_stage(STAGE, tmp_path, params | changes, paths=paths)


def read(run: StageRun) -> Read:
    """Return the batches that *run* wrote."""
    return list(read_batches(run.outputs["samples"]))


def npz(tmp_path: Path, **arrays: Any) -> dict[str, Path]:
    """Write *arrays* to a file, and return it as the stage's declared paths."""
    np.savez(tmp_path / "data.npz", **arrays)
    return {"data": tmp_path / "data.npz"}


def rows(count: int, width: int = 3) -> np.ndarray:
    """Return ``[count, width]`` float32 whose row *i* holds *i* everywhere."""
    return np.repeat(np.arange(count, dtype=np.float32)[:, None], width, axis=1)
