from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.errors import StageError
from orchestrator.numerics.batches import write_batches
from orchestrator.stages import score
from tests.backends import nets
from tests.stage_context import run_stage

LABELS = np.array([0, 1, 2, 0, 1])
LOGITS = np.eye(3, dtype=np.float32)[LABELS]


def spread_of(*, outputs: Any, reference: Any, labels: Any) -> float:
    """A user's metric."""
    assert set(outputs) == set(reference)
    return float(outputs["y"].std()) if labels is None else float("nan")


def failing(*, outputs: Any, reference: Any, labels: Any) -> float:
    raise KeyError("pooled")


def _score(
    tmp_path: Path,
    metric: str,
    reference: Any,
    artifact: Any,
    *,
    labels: Any = None,
    output: str | None = None,
) -> Any:
    def split(array: Any) -> list[dict[str, Any]]:
        return [{"y": array[:2]}, {"y": array[2:]}]

    number = len(list(tmp_path.glob("left-*")))
    inputs = {
        "reference": nets.outputs(tmp_path / f"left-{number}", split(reference)),
        "outputs": nets.outputs(tmp_path / f"right-{number}", split(artifact)),
        "samples": tmp_path / f"samples-{number}",
    }
    inputs["samples"].mkdir()
    write_batches(inputs["samples"], [], labels=labels)
    params = {"metric": metric, "output": output}
    return run_stage(score.STAGE, tmp_path, params, inputs).values


def test_top1_of_both_sides(tmp_path: Path) -> None:
    wrong = LOGITS.copy()
    wrong[4] = [9, 0, 0]
    values = _score(tmp_path, "top1", LOGITS, wrong, labels=LABELS)
    assert values == {"reference": 1.0, "artifact": 0.8, "items": 5}


def test_top1_without_fitting_labels_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="top1 needs labels"):
        _score(tmp_path, "top1", LOGITS, LOGITS)
    with pytest.raises(StageError, match=r"labels of shape \[4\] for predictions of shape \[5\]"):
        _score(tmp_path, "top1", LOGITS, LOGITS, labels=LABELS[:4])


def test_nearest_neighbours(tmp_path: Path) -> None:
    angles = np.radians([0, 5, 40, 44, 90])
    embeddings = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    lengths = np.arange(1, 6)[:, None]
    values = _score(tmp_path, "nearest_neighbour", embeddings, embeddings * lengths)
    assert values == {"reference": 1.0, "artifact": 1.0, "items": 5}
    moved = np.radians([0, 5, 40, 44, 20])  # the last item's neighbour changes, no other's
    other = np.stack([np.cos(moved), np.sin(moved)], axis=1)
    assert _score(tmp_path, "nearest_neighbour", embeddings, other)["artifact"] == 0.8


def test_too_few_neighbours_are_refused(tmp_path: Path) -> None:
    pair = np.eye(2)
    with pytest.raises(StageError, match="3 items or more"):
        _score(tmp_path, "nearest_neighbour", pair, pair)


def test_a_users_function(tmp_path: Path) -> None:
    name = f"{__name__}:spread_of"
    values = _score(tmp_path, name, LOGITS, LOGITS * 2)
    assert values["artifact"] == pytest.approx(2 * values["reference"])
    values = _score(tmp_path, name, LOGITS, LOGITS, labels=LABELS)
    assert values["artifact"] is None  # NaN is no JSON, and fails every limit
    with pytest.raises(StageError, match="KeyError: 'pooled'"):
        _score(tmp_path, f"{__name__}:failing", LOGITS, LOGITS)


def test_unknown_names_are_told_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="did you mean 'top1'"):
        _score(tmp_path, "top_1", LOGITS, LOGITS, labels=LABELS)
    with pytest.raises(StageError, match="no output 'z'; there is y"):
        _score(tmp_path, "top1", LOGITS, LOGITS, labels=LABELS, output="z")
