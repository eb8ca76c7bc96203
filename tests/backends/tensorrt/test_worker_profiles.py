"""Optimization profiles: checked before the build, chosen before a run; and how far a build is."""

from __future__ import annotations

import pytest

from orchestrator.backends.tensorrt import worker
from orchestrator.backends.tensorrt.worker import NetworkInput

IMAGE = NetworkInput("image", (-1, 3, 8, 8), False)
SIZES = NetworkInput("sizes", (2,), True)


def bounds(low: list[int], best: list[int], high: list[int]) -> dict[str, list[int]]:
    return {"min": low, "opt": best, "max": high}


GOOD = bounds([1, 3, 8, 8], [8, 3, 8, 8], [32, 3, 8, 8])


def test_right_profiles_have_no_problems() -> None:
    assert worker.profile_problems([IMAGE], {"image": GOOD}) == []
    both = {"image": GOOD, "sizes": bounds([1, 1], [4, 4], [9, 9])}
    assert worker.profile_problems([IMAGE, SIZES], both) == []
    fixed = NetworkInput("x", (4, 4), False)
    assert worker.profile_problems([fixed], {}) == [], "fixed inputs need no entry"
    empty = bounds([0, 3, 8, 8], [0, 3, 8, 8], [1, 3, 8, 8])
    assert worker.profile_problems([IMAGE], {"image": empty}) == [], "empty batches are legal"


@pytest.mark.parametrize(
    ("profile", "problem"),
    [
        (
            {},
            "input 'image', axis 0: dynamic in the network [-1, 3, 8, 8], and no range is given",
        ),
        ({"image": GOOD, "imgae": GOOD}, "the network has no input 'imgae'; it has image"),
        (
            {"image": bounds([8, 3, 8, 8], [1, 3, 8, 8], [9, 3, 8, 8])},
            "input 'image', axis 0: min 8, opt 1, max 9 are not 0 <= min <= opt <= max",
        ),
        (
            {"image": bounds([1, 3, 8], [1, 3, 8], [1, 3, 8])},
            "have rank 3, the input [-1, 3, 8, 8] has 4",
        ),
        ({"image": bounds([1, 3, 8, 8], [1, 3, 8, 8], [1])}, "differ in rank"),
        (
            {"image": bounds([1, 1, 8, 8], [1, 3, 8, 8], [1, 3, 8, 8])},
            "input 'image', axis 1: min 1, opt 3, max 3, and the network fixes it to 3",
        ),
    ],
)
def test_wrong_profiles_are_named(profile: dict[str, dict[str, list[int]]], problem: str) -> None:
    problems = worker.profile_problems([IMAGE], profile)
    assert len(problems) == 1
    assert problem in problems[0]


def test_wrong_values_of_a_shape_tensor_are_named() -> None:
    assert worker.profile_problems([SIZES], {}) == [
        "input 'sizes' is a shape tensor: its values decide other tensors' sizes, and no range of "
        "them is given"
    ]
    wrong = {"sizes": bounds([1, 5], [4, 4], [9, 9])}
    assert worker.profile_problems([SIZES], wrong) == [
        "input 'sizes', value 1: min 5, opt 4, max 9 are not 0 <= min <= opt <= max"
    ]


PROFILES: list[dict[str, list[tuple[int, ...]]]] = [
    {"x": [(1, 4), (2, 4), (4, 4)], "y": [(1,), (1,), (1,)]},
    {"x": [(1, 4), (8, 4), (16, 4)], "y": [(2,), (2,), (2,)]},
]


def test_the_profile_that_fits_best_is_taken() -> None:
    wide = {"x": [(1, 4), (16, 4), (32, 4)]}
    one = {"x": [(1, 4), (1, 4), (8, 4)]}
    assert [worker.fitting_profile({"x": (n, 4)}, [wide, one]) for n in (1, 4, 5, 8, 9)] == [
        1, 0, 0, 0, 0,
    ]  # fmt: skip
    assert worker.fitting_profile({"x": (4, 4)}, [one, wide]) == 0, "the first among equals"
    assert worker.fitting_profile({"x": (3, 4), "y": (1,)}, PROFILES) == 0


def test_a_profile_must_hold_every_shape() -> None:
    assert worker.fitting_profile({"x": (3, 4), "y": (1,)}, PROFILES) == 0
    assert worker.fitting_profile({"x": (3, 4), "y": (2,)}, PROFILES) == 1
    assert worker.fitting_profile({"x": (16, 4), "y": (2,)}, PROFILES) == 1


def test_shapes_that_no_profile_holds_are_refused_with_the_ranges() -> None:
    with pytest.raises(worker.Failure) as caught:
        worker.fitting_profile({"x": (17, 4), "y": (1,)}, PROFILES)
    assert caught.value.message == (
        "no optimization profile holds 'x' [17, 4] (profiles: [1, 4] to [4, 4]; [1, 4] to [16, 4])"
    )
    with pytest.raises(worker.Failure, match="all these shapes together"):
        worker.fitting_profile({"x": (16, 4), "y": (1,)}, PROFILES)


def test_progress_follows_nested_phases_and_never_falls() -> None:
    phases = worker.Phases()
    assert phases.share() == 0.0
    phases.start("build", None, 2)
    phases.start("tactics", "build", 4)
    phases.step("tactics")
    assert phases.share() == pytest.approx(1 / 8)
    phases.start("layer", "tactics", 2)
    phases.step("layer")
    assert phases.share() == pytest.approx((1 + 0.5) / 8)
    phases.finish("layer")
    assert phases.share() == pytest.approx((1 + 0.5) / 8)
    phases.finish("tactics")
    phases.step("build")
    phases.step("unknown")
    assert phases.share() == pytest.approx(0.5)
    phases.step("build")
    phases.step("build")
    assert phases.share() == 1.0
    phases.start("empty", None, 0)
    assert phases.share() == 1.0
