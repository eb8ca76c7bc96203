"""The ranges of an engine's profiles, and what is wrong with them in the words of the config."""

from __future__ import annotations

import json
from typing import Any

import pytest

from orchestrator.config.schema import Model, Profile
from orchestrator.errors import ConfigError
from orchestrator.plan.inputs import dims_of, profiles_of
from tests.backends.tensorrt.standin import command
from tests.plan.variants import keys, plan

LENGTH = {"min": 1, "opt": 32, "max": 128}
ONE = {"min": 1, "opt": 1, "max": 1}


def model(**changes: Any) -> Model:
    """A model with inputs ``ids`` [batch, length] and ``scale`` [1], with *changes* to its keys."""
    values: dict[str, Any] = {
        "name": "encoder",
        "factory": "package.module:make",
        "inputs": {
            "ids": {"dtype": "int64", "shape": ["batch", "length"]},
            "scale": {"dtype": "float32", "shape": [1]},
        },
        "outputs": ["y"],
        "dims": {"length": LENGTH, "batch": {"min": 1, "opt": 8, "max": 16}},
        "samples": {"kind": "generator"},
    }
    return Model.model_validate(values | changes)


def profile(*narrowed: dict[str, Any]) -> Profile:
    first, *further = narrowed
    return Profile.model_validate({"dims": first, "further": further})


def test_one_profile_is_the_declared_ranges_narrowed() -> None:
    declared = {"batch": {"min": 1, "opt": 8, "max": 16}, "length": LENGTH}
    assert profiles_of(model(), profile({})) == [declared]
    assert dims_of(model()) == declared
    assert profiles_of(model(), profile({"batch": ONE})) == [{"batch": ONE, "length": LENGTH}]


def test_each_further_profile_narrows_the_declared_ranges_not_the_first_one() -> None:
    short = {"min": 1, "opt": 8, "max": 16}
    found = profiles_of(model(), profile({"length": short}, {"batch": ONE}, {}))
    batch = model().dims["batch"].model_dump()
    assert found == [
        {"batch": batch, "length": short},
        {"batch": ONE, "length": LENGTH},
        {"batch": batch, "length": LENGTH},
    ]
    assert dims_of(model(), profile({"length": short}, {"batch": ONE})) == found[0]


def test_the_order_of_names_is_one() -> None:
    assert [list(dims) for dims in profiles_of(model(), profile({}, {"length": ONE}))] == [
        ["batch", "length"]
    ] * 2


WIDE = {"min": 1, "opt": 8, "max": 32}


@pytest.mark.parametrize(
    ("narrowed", "where", "text"),
    [
        ([{"bach": ONE}], "profile.dims.bach", "did you mean 'batch'?"),
        ([{}, {"batch": ONE}, {"bach": ONE}], "profile.further.1.bach", "did you mean 'batch'?"),
        ([{"batch": WIDE}], "profile.dims.batch", "outside the model's declared range 1..16"),
        ([{}, {"batch": WIDE}], "profile.further.0.batch", "widen model.dims.batch"),
        ([{}, {}], "profile.further.0", "the same ranges as profile.dims"),
        ([{"batch": ONE}, {}, {"length": LENGTH}], "profile.further.1", "as profile.further.0"),
    ],
)
def test_a_wrong_profile_is_named_by_its_key(
    narrowed: list[dict[str, Any]], where: str, text: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        profiles_of(model(), profile(*narrowed))
    assert caught.value.where == where
    assert text in caught.value.render()


def test_a_profile_cannot_begin_below_the_declared_range() -> None:
    narrow = model(dims={"batch": {"min": 2, "opt": 8, "max": 16}, "length": LENGTH})
    with pytest.raises(ConfigError, match=r"1\.\.1 is outside the model's declared range 2\.\.16"):
        profiles_of(narrow, profile({}, {"batch": ONE}))


def test_a_model_of_one_shape_has_one_profile() -> None:
    fixed = model(inputs={"x": {"dtype": "float32", "shape": [1, 3]}}, dims={})
    assert profiles_of(fixed, profile({})) == [{}]
    with pytest.raises(ConfigError) as caught:
        profiles_of(fixed, profile({}, {"batch": ONE}))
    assert caught.value.where == "profile.further.0.batch"
    with pytest.raises(ConfigError, match="the same ranges"):
        profiles_of(fixed, profile({}, {}))


def test_names_are_checked_whatever_the_profile() -> None:
    with pytest.raises(ConfigError) as caught:
        profiles_of(model(dims={"batch": ONE}), profile({}))
    assert caught.value.where == "model.inputs.ids.shape"
    assert "axis 1 is the named dimension 'length'" in caught.value.message


TARGET = ("target=tensorrt", f"toolchain.command={json.dumps(command())}")
FURTHER = "profile.further=[{batch:{min:1,opt:1,max:1}}]"


def test_a_further_profile_is_no_new_export_and_no_new_task() -> None:
    before, after = keys(*TARGET), keys(*TARGET, FURTHER)
    assert after.pop("trace samples") == before["samples"]
    assert set(before) == set(after)
    assert {role for role in before if before[role] != after[role]} == {"samples", "build"}


def test_samples_and_engine_have_the_same_profiles() -> None:
    with plan(*TARGET, FURTHER) as found:
        (variant,) = found.graph.variants
        params = {step.role: found.graph.actions[step.action].params for step in variant.steps}
    assert params["samples"]["further"] == [{"batch": ONE}]
    wide, one = params["build"]["target"]["profiles"]
    for name, axis in (("min", 0), ("opt", 0), ("max", 0)):
        assert wide["image"][name][axis] == params["samples"]["dims"]["batch"][name]
        assert one["image"][name][axis] == 1
    assert all("further" not in params[role] for role in ("trace samples", "task data"))
