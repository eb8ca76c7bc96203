"""Samples of several optimization profiles: every one is visited at its min, opt and max."""

from __future__ import annotations

import filecmp
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.config.schema import Dim
from orchestrator.data.points import compare_batches
from tests.data.helpers import BATCH, GENERATOR, npz, read, rows, samples


def batch(low: int, opt: int, high: int) -> dict[str, Any]:
    return {"batch": {"min": low, "opt": opt, "max": high}}


def visited(*sizes: tuple[int, int, int], batches: int = 1) -> list[tuple[str, int]]:
    """Return point and size of each batch for profiles of these (min, opt, max)."""
    profiles = [{"n": Dim(min=low, opt=opt, max=high)} for low, opt, high in sizes]
    return [(b.point, b.dims["n"]) for b in compare_batches(profiles, "n", 1, batches)]


def test_every_profile_is_visited_from_successive_items(tmp_path: Path) -> None:
    further = [batch(2, 5, 7), batch(3, 8, 9)]
    run = samples(tmp_path, {"kind": "npz"}, npz(tmp_path, image=rows(60)), further=further)
    batches = read(run)
    assert [(b.point, b.dims["batch"], b.offset) for b, _ in batches] == [
        ("min", 1, 0),
        ("opt", 4, 1),
        ("opt", 4, 5),
        ("max", 6, 9),
        ("min 2", 2, 15),
        ("opt 2", 5, 17),
        ("max 2", 7, 22),
        ("min 3", 3, 29),
        ("opt 3", 8, 32),
        ("max 3", 9, 40),
    ]
    firsts = np.concatenate([arrays["image"][:, 0] for _, arrays in batches])
    np.testing.assert_array_equal(firsts, np.arange(49))
    assert run.values["points"]["max 3"] == {"dims": {"batch": 9}, "batches": 1, "items": 9}
    assert run.values["items"] == 49


def test_further_profiles_leave_the_first_ones_batches_as_they_were(tmp_path: Path) -> None:
    alone = samples(tmp_path / "a", GENERATOR).outputs["samples"]
    more = samples(tmp_path / "b", GENERATOR, further=[batch(2, 5, 7)]).outputs["samples"]
    names = [f"{number:03d}.npz" for number in range(4)]
    assert filecmp.cmpfiles(alone, more, names, shallow=False)[0] == names
    assert (more / "004.npz").exists()


def test_all_dims_of_a_further_profile_reach_their_ends_together(tmp_path: Path) -> None:
    inputs = {"ids": {"dtype": "float32", "shape": ["batch", "length"]}}
    length = {"length": {"min": 2, "opt": 5, "max": 9}}
    long = {"length": {"min": 9, "opt": 16, "max": 20}}
    dims, further = BATCH | length, [batch(1, 1, 2) | long]
    batches = read(
        samples(tmp_path, GENERATOR, inputs=inputs, dims=dims, further=further, batches=1)
    )
    assert [arrays["ids"].shape for _, arrays in batches] == [
        (1, 2), (4, 5), (6, 9), (1, 9), (1, 16), (2, 20),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("sizes", "points"),
    [
        ([(1, 8, 32), (1, 1, 1)], [("opt", 8), ("max", 32), ("opt 2", 1)]),
        ([(1, 1, 1), (1, 8, 32)], [("opt", 1), ("opt 2", 8), ("max 2", 32)]),
        ([(1, 8, 32), (8, 32, 32)], [("min", 1), ("opt", 8), ("opt 2", 32)]),
        ([(1, 8, 32), (1, 16, 32)], [("min", 1), ("opt", 8), ("max", 32), ("opt 2", 16)]),
        ([(1, 8, 8), (2, 8, 16)], [("min", 1), ("opt", 8), ("min 2", 2), ("max 2", 16)]),
    ],
)
def test_equal_sizes_are_taken_once_at_an_optimum_where_there_is_one(
    sizes: Sequence[tuple[int, int, int]], points: list[tuple[str, int]]
) -> None:
    assert visited(*sizes) == points


RANGE = st.lists(st.integers(1, 12), min_size=3, max_size=3).map(sorted).map(tuple)


@given(st.lists(RANGE, min_size=1, max_size=4), st.integers(1, 3))
def test_every_size_of_every_profile_is_there_once(
    sizes: list[tuple[int, int, int]], batches: int
) -> None:
    found = visited(*sizes, batches=batches)
    named = dict(found)
    assert len(found) == len(named) + batches - 1, "only the first optimum has several batches"
    assert sorted(named.values()) == sorted({size for profile in sizes for size in profile})
    optima = {size for point, size in found if point.startswith("opt")}
    assert optima == {profile[1] for profile in sizes}
    assert [point for point, _ in found].count("opt") == batches


def test_a_task_takes_no_notice_of_further_profiles(tmp_path: Path) -> None:
    run = samples(tmp_path, GENERATOR, purpose="task", further=[batch(7, 8, 9)])
    assert [(b.point, b.items) for b, _ in read(run)] == [("task", 4), ("task", 4), ("task", 2)]
