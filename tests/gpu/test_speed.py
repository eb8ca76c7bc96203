from __future__ import annotations

import math

import pytest

from tests.gpu.steps.leaks import kept
from tests.gpu.steps.speed import ratio_interval


def test_equal_pairs_have_a_ratio_of_one_without_doubt() -> None:
    assert ratio_interval([1.0, 2.0, 4.0], [1.0, 2.0, 4.0]) == (1.0, 1.0, 1.0)


def test_the_interval_is_students() -> None:
    # Logarithms 0.1 and 0.3: mean 0.2, standard error 0.1, t(1) = 12.706.
    ratio, low, high = ratio_interval([math.exp(0.1), math.exp(0.3)], [1.0, 1.0])
    assert math.log(ratio) == pytest.approx(0.2)
    assert math.log(low) == pytest.approx(0.2 - 1.2706)
    assert math.log(high) == pytest.approx(0.2 + 1.2706)


def test_a_steady_difference_is_found_under_common_drift() -> None:
    bare = [1.0, 1.2, 1.5, 1.9, 2.4]
    ratio, low, _ = ratio_interval([1.05 * time for time in bare], bare)
    assert ratio == pytest.approx(1.05)
    assert low > 1


@pytest.mark.parametrize("count", [0, 1, 11])
def test_too_few_and_too_many_pairs_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match="expected 2 to 10"):
        ratio_interval([1.0] * count, [1.0] * count)


def test_growth_of_either_memory_is_seen() -> None:
    fine = {"resident_bytes": 4096, "device_bytes": 0}
    assert kept({"runs": fine, "loads": fine})
    assert not kept({"runs": fine, "loads": {**fine, "device_bytes": 64 << 20}})
    assert not kept({"runs": {**fine, "resident_bytes": 64 << 20}, "loads": fine})
