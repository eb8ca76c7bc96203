from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from orchestrator.numerics.metrics import TINY, Comparison

Array = np.ndarray[Any, Any]


def compare(
    pairs: list[tuple[Array, Array]],
    *,
    items: list[int] | None = None,
    points: list[str] | None = None,
) -> dict[str, Any]:
    comparison = Comparison()
    for number, (reference, artifact) in enumerate(pairs):
        comparison.add(
            "y",
            reference,
            artifact,
            batch=f"{number:03d}.npz",
            point=points[number] if points else "opt",
            items=items[number] if items else len(reference),
        )
    values = comparison.values()
    json.dumps(values, allow_nan=False)
    return values


floats = st.floats(-1e3, 1e3, width=32, allow_nan=False)


@st.composite
def batches(draw: st.DrawFn) -> list[tuple[Array, Array]]:
    width = draw(st.integers(1, 4))
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=5))
    return [
        (
            draw(hnp.arrays(np.float32, (size, width), elements=floats)),
            draw(hnp.arrays(np.float32, (size, width), elements=floats)),
        )
        for size in sizes
    ]


@settings(max_examples=150, deadline=None)
@given(batches())
def test_streamed_numbers_equal_the_plain_formulas(pairs: list[tuple[Array, Array]]) -> None:
    r = np.concatenate([pair[0] for pair in pairs]).astype(np.float64)
    a = np.concatenate([pair[1] for pair in pairs]).astype(np.float64)
    e = np.abs(a - r)
    found = compare(pairs)["outputs"]["y"]
    assert found["max_abs"] == e.max()
    assert found["mean_abs"] == pytest.approx(e.mean(), rel=1e-9, abs=1e-12)
    assert found["max_rel"] == pytest.approx(
        (e / np.maximum(np.abs(r), TINY)).max(), rel=1e-9, abs=1e-12
    )
    if np.abs(r).sum() > 0:
        assert found["mean_rel"] == pytest.approx(e.sum() / np.abs(r).sum(), rel=1e-9, abs=1e-12)
    norms = np.linalg.norm(a) * np.linalg.norm(r)
    if norms > 1e-30:
        assert found["cosine"] == pytest.approx((a * r).sum() / norms, rel=1e-9, abs=1e-12)
    if e.any() and r.any():
        snr = (
            10 * math.log10((r**2).sum() / (e**2).sum()) if (e**2).sum() and (r**2).sum() else None
        )
        assert found["snr_db"] == pytest.approx(snr, rel=1e-9, abs=1e-9)
    if len(r) < 2:
        assert found["spread"] is None
        assert found["max_error"] is None
        return
    spread = math.sqrt((r.std(axis=0, ddof=1) ** 2).mean())
    assert found["spread"] == pytest.approx(spread, rel=1e-9, abs=1e-9)
    if spread > 1e-6:
        assert found["max_error"] == pytest.approx(e.max() / spread, rel=1e-6)
        assert found["mean_error"] == pytest.approx(e.mean() / spread, rel=1e-6)
        assert found["variation"] == pytest.approx(spread / math.sqrt((r**2).mean()), rel=1e-6)


@settings(max_examples=50, deadline=None)
@given(batches(), st.randoms(use_true_random=False))
def test_the_order_of_batches_changes_nothing(pairs: list[Any], random: Any) -> None:
    shuffled = list(pairs)
    random.shuffle(shuffled)
    one, other = compare(pairs)["outputs"]["y"], compare(shuffled)["outputs"]["y"]
    for name in ("max_abs", "mean_abs", "cosine", "spread"):
        if one[name] is None or other[name] is None:
            assert one[name] == other[name], name
        else:
            assert one[name] == pytest.approx(other[name], rel=1e-9, abs=1e-9), name


def test_items_of_different_shapes_are_pooled_by_shape() -> None:
    rng = np.random.default_rng(0)
    short, long = rng.standard_normal((4, 3)), rng.standard_normal((2, 5)) * 10
    lone = rng.standard_normal((1, 7)) * 1e6
    found = compare([(short, short), (long, long), (lone, lone)])["outputs"]["y"]
    deviations = sum(float(((part - part.mean(0)) ** 2).sum()) for part in (short, long))
    assert found["spread"] == pytest.approx(math.sqrt(deviations / (3 * 3 + 1 * 5)))


def test_without_a_batch_axis_whole_batches_are_items() -> None:
    parts = [np.full((3, 2), float(number)) for number in range(4)]
    found = compare([(part, part) for part in parts], items=[1] * 4)["outputs"]["y"]
    assert found["spread"] == pytest.approx(np.std(range(4), ddof=1))
    scalars = [np.array(float(number)) for number in range(4)]
    found = compare([(part, part) for part in scalars], items=[8] * 4)["outputs"]["y"]
    assert found["spread"] == pytest.approx(np.std(range(4), ddof=1))


def test_points_have_errors_of_their_own_relative_to_the_common_spread() -> None:
    one, two = np.array([[0.0]]), np.array([[1.0], [3.0]])
    values = compare([(one, one + 1), (two, two)], points=["min", "opt"])
    assert values["points"]["min"]["y"]["max_abs"] == 1
    assert values["points"]["opt"]["y"]["max_abs"] == 0
    spread = np.std([0, 1, 3], ddof=1)
    assert values["points"]["min"]["y"]["max_error"] == pytest.approx(1 / spread)


def test_nan_and_inf_are_told_apart_on_each_side() -> None:
    reference = np.array([[1.0, np.nan, 3.0, -np.inf]] * 2, np.float32)
    artifact = np.array([[1.5, 2.0, np.inf, np.nan]] * 2, np.float32)
    found = compare([(reference, artifact)])["outputs"]["y"]
    assert found["nonfinite"] == {
        "reference": {"nan": 2, "inf": 2},
        "artifact": {"nan": 2, "inf": 2},
    }
    assert found["max_abs"] == 0.5


def test_nothing_finite_leaves_nulls() -> None:
    found = compare([(np.full((2, 2), np.nan), np.full((2, 2), np.nan))])["outputs"]["y"]
    names = ("max_abs", "mean_abs", "max_rel", "mean_rel", "cosine", "snr_db", "spread")
    assert [found[name] for name in names] == [None] * len(names)


def test_integers_count_exact_mismatches_beyond_float64() -> None:
    reference = np.array([2**53, 2**53, 5, 6], np.int64)
    artifact = np.array([2**53, 2**53 + 1, 5, 7], np.int64)
    assert compare([(reference, artifact)])["outputs"]["y"]["mismatch"] == 0.5
    truth = np.array([True, False])
    assert compare([(truth, ~truth)])["outputs"]["y"]["mismatch"] == 1
    assert "mismatch" not in compare([(np.ones(2), np.ones(2))])["outputs"]["y"]


def test_shape_and_dtype_differences_are_values() -> None:
    found = compare([(np.ones((2, 3)), np.ones((2, 1), np.float16))])["outputs"]["y"]
    assert found["shape_mismatch"] == {
        "batch": "000.npz",
        "reference": [2, 3],
        "artifact": [2, 1],
    }
    assert found["dtype"] == {"reference": "float64", "artifact": "float16"}
    assert found["max_abs"] is None


def test_a_zero_reference_has_no_cosine_of_one() -> None:
    found = compare([(np.zeros((2, 2)), np.ones((2, 2)))])["outputs"]["y"]
    assert found["cosine"] == 0
    assert found["snr_db"] is None
    assert found["variation"] is None
