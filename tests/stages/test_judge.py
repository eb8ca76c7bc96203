from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.config.schema import Tolerance
from orchestrator.errors import StageError
from orchestrator.numerics.batches import write_batches
from orchestrator.numerics.verdict import judge_verdict
from orchestrator.stages import judge
from tests.backends import nets
from tests.stage_context import run_stage

RNG = np.random.default_rng(4)
Y = [RNG.standard_normal((n, 3)).astype(np.float32) for n in (1, 4, 4)]


def _judge(tmp_path: Path, reference: list[Any], artifact: list[Any], names: Any = ("y",)) -> Any:
    number = len(list(tmp_path.glob("left-*")))
    points = ["min", "opt", "max"]
    left = nets.outputs(tmp_path / f"left-{number}", reference, points)
    right = nets.outputs(tmp_path / f"right-{number}", artifact, points)
    params = {"outputs": list(names)}
    return run_stage(judge.STAGE, tmp_path, params, {"reference": left, "outputs": right}).values


def test_numbers_per_output_and_per_point(tmp_path: Path) -> None:
    values = _judge(tmp_path, [{"y": y} for y in Y], [{"y": y + np.float32(0.5)} for y in Y])
    assert set(values["points"]) == {"min", "opt", "max"}
    assert values["outputs"]["y"]["max_abs"] == pytest.approx(0.5, rel=1e-6)
    spread = np.concatenate(Y).astype(np.float64).std(axis=0, ddof=1)
    assert values["outputs"]["y"]["spread"] == pytest.approx(np.sqrt((spread**2).mean()))
    assert values["outputs"]["y"]["elements"] == 27
    assert (values["missing"], values["unexpected"], values["batches_differ"]) == ([], [], None)
    assert judge_verdict(values, Tolerance(max_error=0.01), 1e-3, ["y"])
    assert judge_verdict(values, Tolerance(max_error=1.0), 1e-3, ["y"]) == []


def test_a_nan_in_one_batch_fails(tmp_path: Path) -> None:
    broken = [y.copy() for y in Y]
    broken[1][2, 1] = np.nan
    values = _judge(tmp_path, [{"y": y} for y in Y], [{"y": y} for y in broken])
    assert judge_verdict(values, Tolerance(), 1e-3, ["y"]) == [
        "output y: the artifact gives NaN (1 elements)"
    ]


def test_other_names_fail(tmp_path: Path) -> None:
    values = _judge(tmp_path, [{"y": y} for y in Y], [{"z": y} for y in Y])
    assert values["missing"] == ["y"]
    assert values["unexpected"] == ["z"]
    assert len(judge_verdict(values, Tolerance(), 1e-3, ["y"])) == 2


def test_other_batches_fail(tmp_path: Path) -> None:
    values = _judge(tmp_path, [{"y": y} for y in Y], [{"y": y} for y in Y[:2]])
    assert values["batches_differ"] == "the reference has 3, the artifact 2"
    swapped = [Y[1], Y[0], Y[2]]
    values = _judge(tmp_path, [{"y": y} for y in Y], [{"y": y} for y in swapped])
    assert "000.npz" in values["batches_differ"]
    assert judge_verdict(values, Tolerance(), 1e-3, ["y"])


def test_a_constant_reference_is_refused(tmp_path: Path) -> None:
    same = [{"y": np.ones_like(y)} for y in Y]
    failures = judge_verdict(_judge(tmp_path, same, same), Tolerance(), 1e-3, ["y"])
    assert len(failures) == 1
    assert "hardly varies" in failures[0]


def test_nothing_to_compare_is_an_error(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_batches(tmp_path / name, [])
    inputs = {"reference": tmp_path / "a", "outputs": tmp_path / "b"}
    with pytest.raises(StageError, match="no batches"):
        run_stage(judge.STAGE, tmp_path, {"outputs": ["y"]}, inputs)
