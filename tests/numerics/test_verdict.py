from __future__ import annotations

import re
from copy import deepcopy
from typing import Any

import numpy as np
import pytest

from orchestrator.config.schema import Tolerance
from orchestrator.numerics.metrics import Comparison
from orchestrator.numerics.verdict import judge_verdict, score_verdict

STRICT = Tolerance(max_error=0.05, mean_error=0.01, cosine=0.999, snr_db=30.0)


def values(error: float = 0.0, dtype: Any = np.float32) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    comparison = Comparison()
    for number, point in enumerate(("min", "opt", "opt")):
        reference = rng.standard_normal((4, 8)).astype(np.float32)
        artifact = (reference + error * rng.standard_normal((4, 8))).astype(dtype)
        comparison.add("logits", reference, artifact, batch=f"{number}.npz", point=point, items=4)
    return {**comparison.values(), "missing": [], "unexpected": [], "batches_differ": None}


def verdict(found: dict[str, Any], tolerance: Tolerance = STRICT, **options: Any) -> list[str]:
    return judge_verdict(found, tolerance, 1e-3, ["logits"], precision="fp16", **options)


def test_an_equal_artifact_passes() -> None:
    assert verdict(values()) == []


@pytest.mark.parametrize(
    ("limit", "words"),
    [
        (Tolerance(max_error=0.05), r"largest error [\d.]+ of the spread is above 0.05"),
        (Tolerance(mean_error=0.01), r"mean error [\d.]+ of the spread is above 0.01"),
        (Tolerance(cosine=0.999), r"cosine similarity 0.\d+ is below 0.999"),
        (Tolerance(snr_db=30.0), r"signal-to-noise ratio [\d.]+ dB is below 30"),
    ],
)
def test_every_limit_can_fail_and_names_its_key(limit: Tolerance, words: str) -> None:
    failures = verdict(values(0.2), limit)
    name = next(iter(limit.model_dump(exclude_none=True)))
    assert len(failures) == 1
    assert re.search(words, failures[0]), failures
    assert failures[0].endswith(f"(compare.fp16.{name})")
    assert verdict(values(0.2), Tolerance()) == []


@pytest.mark.parametrize("name", ["max_error", "mean_error", "cosine", "snr_db"])
def test_an_unknown_number_fails_its_limit(name: str) -> None:
    found = values(0.2)
    for numbers in (found["outputs"]["logits"], *(p["logits"] for p in found["points"].values())):
        numbers[name] = None
    failures = verdict(found, Tolerance(**{name: 0.5}))
    assert len(failures) == 1
    assert "is not known" in failures[0]


def test_one_bad_point_fails_and_is_named() -> None:
    found = values()
    found["points"]["min"]["logits"]["cosine"] = 0.5
    assert verdict(found) == [
        "output logits at the min shape: cosine similarity 0.5 is below 0.999 (compare.fp16.cosine)"
    ]


def test_nonfinite_values_fail_and_say_whose() -> None:
    for side, kind, words in (
        ("reference", "nan", "the PyTorch model itself gives NaN (3 elements)"),
        ("reference", "inf", "the PyTorch model itself gives Inf"),
        ("artifact", "nan", "the artifact gives NaN"),
        ("artifact", "inf", "the artifact gives Inf"),
    ):
        found = deepcopy(values())
        found["outputs"]["logits"]["nonfinite"][side][kind] = 3
        failures = verdict(found, Tolerance())
        assert len(failures) == 1
        assert words in failures[0]


def test_a_reference_that_does_not_vary_is_refused() -> None:
    comparison = Comparison()
    same = np.tile(np.linspace(1, 2, 8), (4, 1))
    comparison.add("logits", same, same, batch="0.npz", point="opt", items=4)
    failures = verdict({**comparison.values()}, Tolerance())
    assert len(failures) == 1
    assert "hardly varies" in failures[0]


def test_a_single_item_cannot_prove_anything() -> None:
    comparison = Comparison()
    comparison.add("logits", np.ones((1, 3)), np.ones((1, 3)), batch="0.npz", point="opt", items=1)
    failures = verdict({**comparison.values()})
    assert any("fewer than two items" in text for text in failures)


def test_a_spread_of_zero_fails_even_when_variation_is_not_asked_for() -> None:
    comparison = Comparison()
    comparison.add("logits", np.ones((2, 3)), np.zeros((2, 3)), batch="0.npz", point="o", items=2)
    failures = judge_verdict(comparison.values(), Tolerance(max_error=0.1), 0.0, ["logits"])
    assert failures == [
        "output logits: largest error is not known, so it is not within 0.1 (max_error)"
    ]


def test_types_must_agree_unless_the_precision_may_change_them() -> None:
    found = values(dtype=np.float16)
    assert any("float16" in text for text in verdict(found, Tolerance()))
    assert verdict(found, Tolerance(), keep_io=False) == []
    found["outputs"]["logits"]["dtype"]["artifact"] = "int64"
    assert any("int64" in text for text in verdict(found, Tolerance(), keep_io=False))


def test_names_shapes_and_batches_are_failures() -> None:
    found = values()
    found.update(
        missing=["b"], unexpected=["c"], batches_differ="the reference has 1, the artifact 2"
    )
    found["outputs"]["logits"]["shape_mismatch"] = {
        "batch": "0.npz",
        "reference": [2, 3],
        "artifact": [2, 1],
    }
    failures = judge_verdict(found, Tolerance(), 1e-3, ["logits", "b", "d"])
    for words in ("output b:", "output c:", "the same batches", "gives shape [2, 1]", "output d:"):
        assert any(words in text for text in failures), words
    assert len(failures) == 5


def test_scores() -> None:
    limit = Tolerance(task_drop=0.01)
    assert score_verdict({"reference": 0.98, "artifact": 0.97}, limit) == []
    assert score_verdict({"reference": 0.97, "artifact": 0.99}, limit) == []
    (failure,) = score_verdict({"reference": 0.98, "artifact": 0.96}, limit, precision="int8")
    assert "0.9800 to 0.9600" in failure
    assert failure.endswith("(compare.int8.task_drop)")
    assert score_verdict({"reference": 0.98, "artifact": None}, limit)
    assert score_verdict({"reference": 0.98, "artifact": None}, Tolerance()) == []
