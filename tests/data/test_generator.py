from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.errors import StageError
from tests.data.helpers import BATCH, read, samples

TWO = {
    "a": {"dtype": "float32", "shape": ["batch", 1000]},
    "b": {"dtype": "float32", "shape": ["batch", 1000]},
}


def generate(tmp_path: Path, *, dtype: str = "float32", how: Any = None, **changes: Any) -> Any:
    inputs = {"x": {"dtype": dtype, "shape": ["batch", 1000]}}
    data = {"kind": "generator", "seed": 0, "inputs": {"x": how} if how else {}}
    run = samples(tmp_path, data, **{"inputs": inputs, **changes})
    return [arrays for _, arrays in read(run)]


def test_an_input_depends_on_neither_other_inputs_nor_other_batches(tmp_path: Path) -> None:
    data = {"kind": "generator", "seed": 3}
    both = read(samples(tmp_path, data, inputs=TWO))
    alone = read(samples(tmp_path, data, inputs={"b": TWO["b"]}, batches=1))
    # Batch 1 of both is the opt batch at offset 1.
    np.testing.assert_array_equal(both[1][1]["b"], alone[1][1]["b"])
    assert (both[1][1]["a"] != both[1][1]["b"]).any()
    assert (both[1][1]["a"] != both[2][1]["a"]).any()


def test_the_seed_decides(tmp_path: Path) -> None:
    first, same, other = (
        read(samples(tmp_path, {"kind": "generator", "seed": seed}))[1][1]["image"]
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, same)
    assert (first != other).any()


def test_normal(tmp_path: Path) -> None:
    x = generate(tmp_path, how={"distribution": "normal", "mean": 5.0, "std": 2.0})[1]["x"]
    assert abs(x.mean() - 5) < 0.2
    assert abs(x.std() - 2) < 0.2


def test_uniform(tmp_path: Path) -> None:
    x = generate(tmp_path, how={"distribution": "uniform", "low": -1.0, "high": 3.0})[1]["x"]
    assert -1 <= x.min() < -0.9
    assert 2.9 < x.max() <= 3


def test_integers_exclude_the_upper_bound(tmp_path: Path) -> None:
    how = {"distribution": "integers", "low": 2.0, "high": 5.0}
    x = generate(tmp_path, dtype="int64", how=how)[1]["x"]
    assert x.dtype == np.int64
    assert set(np.unique(x)) == {2, 3, 4}


def test_constant_and_bool(tmp_path: Path) -> None:
    ones = generate(tmp_path, dtype="int64", how={"distribution": "constant", "value": 1.0})
    assert set(np.unique(ones[1]["x"])) == {1}
    coins = generate(tmp_path, dtype="bool", how={"distribution": "integers", "high": 2.0})
    assert coins[1]["x"].dtype == np.bool_
    assert set(np.unique(coins[1]["x"])) == {False, True}


@pytest.mark.parametrize(
    ("dtype", "how", "message"),
    [
        ("int64", None, "'normal' draws fractions, but the input is int64"),
        ("float32", {"distribution": "uniform", "low": 1.0, "high": 1.0}, "is not below high"),
        ("int64", {"distribution": "integers", "low": 0.5, "high": 2.0}, "whole numbers"),
        ("int8", {"distribution": "integers", "low": 300.0, "high": 301.0}, "does not fit"),
        ("float16", {"distribution": "constant", "value": 1e6}, "does not fit into the declared"),
        ("int64", {"distribution": "constant", "value": 0.5}, "cannot become the declared int64"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, dtype: str, how: Any, message: str) -> None:
    with pytest.raises(StageError, match=message):
        generate(tmp_path, dtype=dtype, how=how)


def test_an_unknown_input_is_named_with_the_nearest(tmp_path: Path) -> None:
    data = {"kind": "generator", "inputs": {"imag": {}}}
    with pytest.raises(StageError, match="did you mean 'image'"):
        samples(tmp_path, data, dims=BATCH)


def test_a_negative_seed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="-1 is negative"):
        samples(tmp_path, {"kind": "generator", "seed": -1})
