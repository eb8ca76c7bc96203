from __future__ import annotations

import filecmp
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.config.schema import Dim
from orchestrator.data.points import counted_batches
from orchestrator.errors import StageError
from orchestrator.numerics.batches import read_labels
from orchestrator.stages.samples import STAGE
from tests.data.helpers import BATCH, GENERATOR, npz, read, rows, samples

NPZ = {"kind": "npz"}


def test_compare_takes_min_opt_max_from_successive_items(tmp_path: Path) -> None:
    run = samples(tmp_path, NPZ, npz(tmp_path, image=rows(20)))
    batches = read(run)
    assert [(b.point, b.dims["batch"], b.offset, b.items) for b, _ in batches] == [
        ("min", 1, 0, 1),
        ("opt", 4, 1, 4),
        ("opt", 4, 5, 4),
        ("max", 6, 9, 6),
    ]
    firsts = np.concatenate([arrays["image"][:, 0] for _, arrays in batches])
    np.testing.assert_array_equal(firsts, np.arange(15))
    assert run.values == {
        "items": 15,
        "points": {
            "min": {"dims": {"batch": 1}, "batches": 1, "items": 1},
            "opt": {"dims": {"batch": 4}, "batches": 2, "items": 8},
            "max": {"dims": {"batch": 6}, "batches": 1, "items": 6},
        },
    }
    assert not run.log


def test_compare_goes_round_a_short_source_and_says_so(tmp_path: Path) -> None:
    run = samples(tmp_path, NPZ, npz(tmp_path, image=rows(4)))
    firsts = np.concatenate([arrays["image"][:, 0] for _, arrays in read(run)])
    np.testing.assert_array_equal(firsts, np.arange(15) % 4)
    assert "more than once" in run.log[0]


@pytest.mark.parametrize(
    ("sizes", "points"),
    [
        ({"min": 4, "opt": 4, "max": 4}, ["opt", "opt"]),
        ({"min": 4, "opt": 4, "max": 8}, ["opt", "opt", "max"]),
        ({"min": 1, "opt": 8, "max": 8}, ["min", "opt", "opt"]),
    ],
)
def test_points_that_coincide_are_not_repeated(
    tmp_path: Path, sizes: dict[str, int], points: list[str]
) -> None:
    run = samples(tmp_path, GENERATOR, dims={"batch": sizes})
    assert [batch.point for batch, _ in read(run)] == points


def test_a_model_without_dynamic_dims_has_only_opt(tmp_path: Path) -> None:
    inputs = {"image": {"dtype": "float32", "shape": [1, 3]}}
    batches = read(samples(tmp_path, GENERATOR, inputs=inputs, dims={}))
    assert [(b.point, b.items, b.offset) for b, _ in batches] == [("opt", 1, 0), ("opt", 1, 1)]


def test_all_dims_reach_their_ends_together(tmp_path: Path) -> None:
    inputs = {"ids": {"dtype": "float32", "shape": ["batch", "length"]}}
    dims = {"batch": BATCH["batch"], "length": {"min": 2, "opt": 5, "max": 9}}
    batches = read(samples(tmp_path, GENERATOR, inputs=inputs, dims=dims, batches=1))
    assert [arrays["ids"].shape for _, arrays in batches] == [(1, 2), (4, 5), (6, 9)]


def test_axis_0_that_inputs_do_not_share_counts_no_items(tmp_path: Path) -> None:
    inputs = {
        "points": {"dtype": "float32", "shape": ["batch", 3]},
        "camera": {"dtype": "float32", "shape": [4, 4]},
    }
    batches = read(samples(tmp_path, GENERATOR, inputs=inputs))
    assert [(batch.items, batch.offset) for batch, _ in batches] == [(1, 0), (1, 1), (1, 2), (1, 3)]


def test_a_fixed_axis_0_counts_items_where_the_data_do(tmp_path: Path) -> None:
    inputs = {"image": {"dtype": "float32", "shape": [5, 3]}}
    paths = npz(tmp_path, image=rows(20), labels=np.arange(20))
    run = samples(
        tmp_path,
        NPZ | {"labels": "labels"},
        paths,
        inputs=inputs,
        dims={},
        purpose="task",
        count=13,
    )
    batches = read(run)
    assert [(batch.items, batch.offset) for batch, _ in batches] == [(5, 0), (5, 5)]
    assert run.log == ["3 of 13 items are left out: they fill no batch of 5"]
    np.testing.assert_array_equal(read_labels(run.outputs["samples"]), np.arange(10))


def test_a_task_takes_each_item_once_with_its_label(tmp_path: Path) -> None:
    paths = npz(tmp_path, image=rows(20), truth=np.arange(20) * 7)
    data = NPZ | {"labels": "truth", "start": 2}
    run = samples(tmp_path, data, paths, purpose="task", count=10)
    batches = read(run)
    assert [(b.point, b.items, b.dims) for b, _ in batches] == [
        ("task", 4, {"batch": 4}),
        ("task", 4, {"batch": 4}),
        ("task", 2, {"batch": 2}),
    ]
    labels = read_labels(run.outputs["samples"])
    images = np.concatenate([arrays["image"][:, 0] for _, arrays in batches])
    np.testing.assert_array_equal(images, np.arange(2, 12))
    np.testing.assert_array_equal(labels, images * 7)


def test_a_task_of_more_items_than_there_are_is_refused(tmp_path: Path) -> None:
    paths = npz(tmp_path, image=rows(9))
    with pytest.raises(StageError, match="10 items are to be evaluated, but there are 9"):
        samples(tmp_path, NPZ, paths, purpose="task")


def test_calibration_takes_what_there_is_and_no_labels(tmp_path: Path) -> None:
    paths = npz(tmp_path, image=rows(9), truth=np.arange(9))
    run = samples(tmp_path, NPZ | {"labels": "truth"}, paths, purpose="calibration")
    assert [batch.items for batch, _ in read(run)] == [4, 4, 1]
    assert {batch.point for batch, _ in read(run)} == {"calibration"}
    assert run.log == ["calibrating on all 9 items; 10 were asked for"]
    assert read_labels(run.outputs["samples"]) is None


@given(
    sizes=st.lists(st.integers(1, 40), min_size=3, max_size=3).map(sorted),
    count=st.integers(1, 300),
)
def test_counted_batches_stay_in_range_and_repeat_nothing(sizes: list[int], count: int) -> None:
    size = Dim(min=sizes[0], opt=sizes[1], max=sizes[2])
    log: list[str] = []
    try:
        batches = counted_batches("task", {"n": size}, "n", 1, count, log.append)
    except StageError:
        assert count < size.min
        return
    offset = 0
    for batch in batches:
        assert batch.offset == offset
        assert batch.items == batch.dims["n"]
        assert size.min <= batch.items <= size.max
        offset += batch.items
    assert all(batch.items == size.opt for batch in batches[:-1])
    assert count - size.min < offset <= count
    assert bool(log) == (offset < count)


def test_two_runs_write_the_same_bytes(tmp_path: Path) -> None:
    one, two = (samples(tmp_path, GENERATOR).outputs["samples"] for _ in range(2))
    names = sorted(path.name for path in one.iterdir())
    assert names == ["000.npz", "001.npz", "002.npz", "003.npz", "index.json"]
    assert filecmp.cmpfiles(one, two, names, shallow=False)[0] == names


def test_a_dimension_without_range_is_named(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="dimension 'batch' has no range") as caught:
        samples(tmp_path, GENERATOR, dims={})
    assert caught.value.where == "model.inputs.image.shape"


def test_tools_are_what_the_kind_uses() -> None:
    assert STAGE.tools_for({"data": {"kind": "npz"}}) == ("numpy",)
    assert STAGE.tools_for({"data": {"kind": "images"}}) == ("numpy", "pillow")


def test_the_declaration_imports_nothing_heavy() -> None:
    code = (
        "import sys; import orchestrator.stages.samples, orchestrator.locations; "
        "assert not {'numpy', 'torch', 'PIL', 'orchestrator.data'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
