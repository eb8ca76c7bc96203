"""Profiles: shapes from named dimensions, and what a version of TensorRT cannot take."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from orchestrator.backends.tensorrt.profiles import Sizes, check_volumes, make_profiles
from orchestrator.backends.tensorrt.versions import parse_version
from orchestrator.backends.tensorrt.worker import NetworkInput, profile_problems
from orchestrator.errors import PlanError

INPUTS: Mapping[str, Sizes] = {
    "ids": ["batch", "length"],
    "image": ["batch", 3, 8, 8],
    "scale": [1],
}
WIDE = {
    "batch": {"min": 1, "opt": 8, "max": 16},
    "length": {"min": 1, "opt": 32, "max": 128},
}
ONE = WIDE | {"batch": {"min": 1, "opt": 1, "max": 1}}


def shapes(low: list[int], opt: list[int], high: list[int]) -> dict[str, list[int]]:
    return {"min": low, "opt": opt, "max": high}


def test_dynamic_inputs_get_their_shapes() -> None:
    assert make_profiles(INPUTS, [WIDE]) == [
        {
            "ids": shapes([1, 1], [8, 32], [16, 128]),
            "image": shapes([1, 3, 8, 8], [8, 3, 8, 8], [16, 3, 8, 8]),
        }
    ]


def test_every_profile_gets_its_own() -> None:
    first, second = make_profiles(INPUTS, [WIDE, ONE])
    assert [first] == make_profiles(INPUTS, [WIDE])
    assert second["ids"] == shapes([1, 1], [1, 32], [1, 128])
    assert second["image"] == shapes([1, 3, 8, 8], [1, 3, 8, 8], [1, 3, 8, 8])


def test_one_dimension_may_stand_on_several_axes() -> None:
    (profile,) = make_profiles({"mask": ["length", "length"]}, [WIDE])
    assert profile["mask"] == shapes([1, 1], [32, 32], [128, 128])


def test_static_models_need_no_profile() -> None:
    assert make_profiles({"x": [1, 3]}, [{}]) == []


def test_the_worker_finds_nothing_wrong_with_them() -> None:
    network = [
        NetworkInput(name, tuple(-1 if isinstance(size, str) else size for size in sizes), False)
        for name, sizes in INPUTS.items()
    ]
    for profile in make_profiles(INPUTS, [WIDE, ONE]):
        assert profile_problems(network, profile) == []


HUGE = {"batch": {"min": 1, "opt": 1, "max": 2**10}}
LARGE: Sizes = ["batch", 2, 2**10, 2**10]  # 2**31 elements at batch 1024


def test_tensors_of_2_31_elements_are_refused_before_10_10() -> None:
    for text in ("8.6.1", "10.0.1", "10.9.0"):
        with pytest.raises(PlanError) as caught:
            check_volumes({"x": [1], "image": LARGE}, [HUGE], parse_version(text), "trt")
        assert caught.value.message == (
            "input 'image' has 2147483648 elements at its maximum [1024, 2, 1024, 1024]; "
            f"trt has TensorRT {text}, which takes fewer than 2^31"
        )
        assert caught.value.where == "profile.dims"
        assert "lower the maximum of batch" in caught.value.hint
    for text in ("10.10.0", "11.4.0"):
        check_volumes({"image": LARGE}, [HUGE], parse_version(text))


def test_one_element_fewer_is_taken() -> None:
    less = {"batch": {"min": 1, "opt": 1, "max": 2**10 - 1}}
    check_volumes({"image": LARGE}, [less], parse_version("8.6.1"))


def test_the_profile_that_is_too_large_is_named() -> None:
    with pytest.raises(PlanError) as caught:
        check_volumes({"x": [1], "image": LARGE}, [ONE, ONE, HUGE], parse_version("8.6.1"))
    assert caught.value.where == "profile.further.1"


def test_a_fixed_shape_that_is_too_large_is_named() -> None:
    with pytest.raises(PlanError) as caught:
        check_volumes({"x": [2**16, 2**16]}, [{}], parse_version("8.6.1"))
    assert caught.value.where == "model.inputs.x.shape"
    assert caught.value.hint == "use a toolchain with TensorRT >= 10.10"
