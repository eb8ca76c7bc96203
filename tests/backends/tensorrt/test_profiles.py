"""Profiles: shapes from named dimensions, and messages in the user's words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.backends.tensorrt.profiles import Sizes, check_profiles, choose, make_profiles
from orchestrator.config.schema import Dim
from orchestrator.errors import ConfigError, StageError

INPUTS: Mapping[str, Sizes] = {
    "ids": ["batch", "length"],
    "image": ["batch", 3, 8, 8],
    "scale": [1],
}
DIMS = {"batch": Dim(min=1, opt=8, max=16), "length": Dim(min=1, opt=32, max=128)}


def shapes(low: list[int], opt: list[int], high: list[int]) -> dict[str, list[int]]:
    return {"min": low, "opt": opt, "max": high}


GOOD = {
    "ids": shapes([1, 1], [8, 32], [16, 128]),
    "image": shapes([1, 3, 8, 8], [8, 3, 8, 8], [16, 3, 8, 8]),
}


def changed(name: str, **points: list[int]) -> list[dict[str, Any]]:
    return [{**GOOD, name: {**GOOD[name], **points}}]


def test_one_profile_from_the_declared_dimensions() -> None:
    assert make_profiles(INPUTS, DIMS) == [GOOD]


def test_several_profiles_narrow_some_dimensions() -> None:
    narrow = [{"batch": Dim(min=1, opt=1, max=1)}, {"length": Dim(min=64, opt=64, max=128)}]
    first, second = make_profiles(INPUTS, DIMS, narrow)
    assert first["ids"] == shapes([1, 1], [1, 32], [1, 128])
    assert first["image"] == shapes([1, 3, 8, 8], [1, 3, 8, 8], [1, 3, 8, 8])
    assert second["ids"] == shapes([1, 64], [8, 64], [16, 128])


def test_static_models_need_no_profile() -> None:
    assert make_profiles({"x": [1, 3]}, {}) == []
    with pytest.raises(ConfigError, match="nothing to profile"):
        make_profiles({"x": [1, 3]}, DIMS, [{"batch": Dim(min=1, opt=1, max=1)}])


@pytest.mark.parametrize(
    ("narrow", "where", "text"),
    [
        ({"bach": Dim(min=1, opt=1, max=1)}, "profile.dims.bach", "did you mean 'batch'?"),
        (
            {"batch": Dim(min=1, opt=8, max=32)},
            "profile.dims.batch",
            "declared from 1 to 16, and the profile asks for 1 to 32",
        ),
        (
            {"batch": Dim.model_construct(min=8, opt=4, max=16)},
            "profile.dims.batch",
            "dimension 'batch' needs 0 <= min <= opt <= max, got 8, 4, 16",
        ),
    ],
)
def test_ranges_are_checked_against_the_declared_ones(
    narrow: dict[str, Dim], where: str, text: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        make_profiles(INPUTS, DIMS, [narrow])
    assert raised.value.where == where
    assert text in raised.value.render()


def test_a_profile_cannot_begin_below_the_declared_range() -> None:
    dims = {"n": Dim(min=2, opt=4, max=8)}
    with pytest.raises(ConfigError, match="declared from 2 to 8, and the profile asks for 1 to 8"):
        make_profiles({"x": ["n"]}, dims, [{"n": Dim(min=1, opt=4, max=8)}])


def test_a_dimension_without_a_range_names_input_and_axis() -> None:
    with pytest.raises(ConfigError, match=r"input 'ids', axis 1: .* named 'length'"):
        make_profiles(INPUTS, {"batch": DIMS["batch"]})


@pytest.mark.parametrize(
    ("profiles", "text"),
    [
        ([], "input 'ids' has dynamic sizes (batch, length), and there is no profile"),
        ([{"ids": GOOD["ids"]}], "input 'image' has dynamic sizes (batch, 3, 8, 8) and is missing"),
        ([{**GOOD, "imge": GOOD["image"]}], "did you mean 'image'?"),
        (
            changed("ids", min=[32, 1]),
            "input 'ids', axis 0 ('batch'): needs 0 <= min <= opt <= max, got 32, 8, 16",
        ),
        (
            changed("image", max=[16, 4, 8, 8]),
            "input 'image', axis 1: the model fixes this size to 3, and the profile has min 3, "
            "opt 3, max 4",
        ),
        (
            changed("image", min=[1, 3, 8]),
            "input 'image' has 4 axes (batch, 3, 8, 8), and its min shape has 3",
        ),
        ([GOOD, *changed("ids", opt=[8, 200])], "profile[1]: input 'ids', axis 1 ('length')"),
        ([{**GOOD, "ids": {"min": [1, 1], "opt": [1, 1]}}], "input 'ids' has no max shape"),
    ],
)
def test_given_shapes_are_checked_in_the_users_words(profiles: list[Any], text: str) -> None:
    with pytest.raises(ConfigError) as raised:
        check_profiles(profiles, INPUTS)
    assert text in raised.value.render()


def test_a_size_of_zero_is_legal() -> None:
    check_profiles(changed("ids", min=[0, 1]), INPUTS)


@given(st.lists(st.integers(0, 64), min_size=3, max_size=3))
def test_exactly_ordered_sizes_pass(sizes: list[int]) -> None:
    low, opt, high = sizes
    profile = [{"x": shapes([low], [opt], [high])}]
    if low <= opt <= high:
        check_profiles(profile, {"x": ["n"]})
        return
    with pytest.raises(ConfigError):
        check_profiles(profile, {"x": ["n"]})


def test_the_profile_nearest_to_its_optimum_is_chosen() -> None:
    narrow = [{}, {"batch": Dim(min=1, opt=1, max=4)}]
    profiles = make_profiles(INPUTS, DIMS, narrow)
    near = {"ids": [2, 32], "image": [2, 3, 8, 8]}
    assert choose(profiles, near) == 1
    assert choose(profiles, {"ids": [8, 32], "image": [8, 3, 8, 8]}) == 0
    assert choose([], near) == 0


def test_sizes_outside_every_profile_name_input_axis_and_limits() -> None:
    with pytest.raises(StageError) as raised:
        choose([GOOD], {"ids": [17, 32], "image": [17, 3, 8, 8]})
    assert raised.value.message == ("input 'ids', axis 0: size 17, but the engine takes 1 to 16")
    with pytest.raises(StageError, match="axis 1: size 4, but the engine takes only 3"):
        choose([GOOD], {"ids": [1, 1], "image": [1, 4, 8, 8]})
