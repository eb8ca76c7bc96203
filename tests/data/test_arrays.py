from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.errors import StageError
from orchestrator.numerics.batches import read_labels
from tests.data.helpers import npz, read, rows, samples

NPZ = {"kind": "npz"}
SEQUENCE = {"ids": {"dtype": "int64", "shape": ["batch", "length"]}}
LENGTHS = {
    "batch": {"min": 1, "opt": 2, "max": 3},
    "length": {"min": 2, "opt": 4, "max": 8},
}


def test_arrays_are_found_by_mapping_scaled_and_cast(tmp_path: Path) -> None:
    pixels = np.arange(0, 48, dtype=np.uint8).reshape(16, 3)
    data = NPZ | {"arrays": {"image": "pixels"}, "scale": 0.0625}
    _, arrays = read(samples(tmp_path, data, npz(tmp_path, pixels=pixels)))[1]
    assert arrays["image"].dtype == np.float32
    np.testing.assert_array_equal(arrays["image"], pixels[1:5].astype(np.float32) / 16)


def test_npy_files_one_an_input(tmp_path: Path) -> None:
    inputs = {
        "a": {"dtype": "float32", "shape": ["batch", 3]},
        "b": {"dtype": "float32", "shape": ["batch"]},
    }
    np.save(tmp_path / "a.npy", rows(8))
    np.save(tmp_path / "b.npy", np.arange(8.0))
    np.save(tmp_path / "l.npy", np.arange(8))
    paths = {
        "data.a": tmp_path / "a.npy",
        "data.b": tmp_path / "b.npy",
        "labels": tmp_path / "l.npy",
    }
    run = samples(tmp_path, {"kind": "npy"}, paths, inputs=inputs, purpose="task", count=8)
    for _, arrays in read(run):
        np.testing.assert_array_equal(arrays["a"][:, 0], arrays["b"])
    np.testing.assert_array_equal(read_labels(run.outputs["samples"]), np.arange(8))


def test_dynamic_axes_are_cut_to_the_size_wanted(tmp_path: Path) -> None:
    ids = np.arange(100).reshape(10, 10)
    run = samples(tmp_path, NPZ, npz(tmp_path, ids=ids), inputs=SEQUENCE, dims=LENGTHS, batches=1)
    got = [arrays["ids"] for _, arrays in read(run)]
    for array, wanted in zip(got, (ids[:1, :2], ids[1:3, :4], ids[3:6, :8]), strict=True):
        np.testing.assert_array_equal(array, wanted)


def test_rows_are_whole_inputs_where_nothing_counts_a_batch(tmp_path: Path) -> None:
    inputs = {
        "signal": {"dtype": "float32", "shape": ["length"]},
        "gain": {"dtype": "float32", "shape": []},
    }
    paths = npz(tmp_path, signal=np.arange(60.0).reshape(6, 10), gain=np.arange(6.0))
    # A length that is dynamic, alone on axis 0 of one input only.
    run = samples(
        tmp_path, NPZ, paths, inputs=inputs, dims={"length": LENGTHS["length"]}, batches=2
    )
    got = [(arrays["signal"].tolist(), float(arrays["gain"])) for _, arrays in read(run)]
    assert [len(signal) for signal, _ in got] == [2, 4, 4, 8]
    assert [signal[0] for signal, _ in got] == [0, 10, 20, 30]
    assert [gain for _, gain in got] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("arrays", "changes", "message", "hint"),
    [
        ({"imagee": rows(9)}, {}, "has no array 'image'", "did you mean 'imagee'"),
        ({"image": rows(0)}, {}, "no item is left: 0 items", "give data"),
        ({"image": rows(9)}, {"start": 9}, "no item is left", "start and stop"),
        ({"image": rows(9)}, {"stop": 10}, "stop is 10, but there are 9 items", "stop: 9"),
        ({"image": rows(9, 4)}, {}, "axis 1 of the array has 4 elements", "model.inputs"),
        ({"image": rows(9)[:, :, None]}, {}, "which does not give float32", "axis 0"),
        ({"image": np.float32(1)}, {}, "is a single number", "one row an item"),
        ({"image": rows(9)}, {"labels": "nope"}, "has no array 'nope'", "name the array"),
        ({"image": rows(9), "l": rows(8)}, {"labels": "l"}, "labels has 8", "axis 0"),
        ({"image": rows(9)}, {"arrays": {"imgae": "x"}}, "'imgae' is no input", "'image'"),
        ({"image": rows(9) * np.nan}, {}, "hold nan at [0, 0]", "remove NaN"),
        ({"image": np.full((9, 3), -np.inf)}, {}, "hold -inf at [0, 0]", "remove NaN"),
        ({"image": np.full((9, 3), 1e300)}, {}, "hold 1e+300, which does not fit", "scale"),
        ({"image": rows(9).astype("U4")}, {}, "cannot become the declared float32", "float32"),
    ],
)
def test_mistakes_are_named(
    tmp_path: Path, arrays: dict[str, Any], changes: dict[str, Any], message: str, hint: str
) -> None:
    with np.errstate(all="ignore"):
        paths = npz(tmp_path, **arrays)
    with pytest.raises(StageError) as caught:
        samples(tmp_path, NPZ | changes, paths, purpose="task", count=5)
    assert message in caught.value.message
    assert hint in caught.value.hint
    assert "model." in caught.value.where


def test_a_short_dynamic_axis_names_axis_dimension_and_size(tmp_path: Path) -> None:
    paths = npz(tmp_path, ids=np.zeros((9, 6), dtype=np.int64))
    with pytest.raises(StageError, match=r"axis 1 .* has 6 .*'length' reaches 8") as caught:
        samples(tmp_path, NPZ, paths, inputs=SEQUENCE, dims=LENGTHS)
    assert "lower the range of 'length'" in caught.value.hint


def test_fractions_never_become_integers(tmp_path: Path) -> None:
    paths = npz(tmp_path, ids=np.zeros((9, 8)))
    with pytest.raises(StageError, match="float64, which cannot become the declared int64"):
        samples(tmp_path, NPZ, paths, inputs=SEQUENCE, dims=LENGTHS)


def test_integers_narrow_only_without_loss(tmp_path: Path) -> None:
    inputs = {"ids": {"dtype": "int8", "shape": ["batch"]}}
    good = samples(tmp_path, NPZ, npz(tmp_path, ids=np.arange(9)), inputs=inputs)
    assert read(good)[0][1]["ids"].dtype == np.int8
    with pytest.raises(StageError, match="hold 300, which does not fit into the declared int8"):
        samples(tmp_path, NPZ, npz(tmp_path, ids=np.full(9, 300)), inputs=inputs)


def test_scale_on_integers_is_refused(tmp_path: Path) -> None:
    paths = npz(tmp_path, ids=np.zeros((9, 8), dtype=np.int64))
    with pytest.raises(StageError, match=r"scale 0\.5 cannot apply to input 'ids'"):
        samples(tmp_path, NPZ | {"scale": 0.5}, paths, inputs=SEQUENCE, dims=LENGTHS)


def test_files_that_are_no_numpy_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    path.write_bytes(b"PK\x03\x04 truncated")
    with pytest.raises(StageError, match=r"data\.npz cannot be read as a NumPy file"):
        samples(tmp_path, NPZ, {"data": path})
    path.write_bytes(b"")
    with pytest.raises(StageError, match=r"data\.npz cannot be read as a NumPy file"):
        samples(tmp_path, NPZ, {"data": path})
    with pytest.raises(StageError, match="array 'image' cannot be read: Object arrays"):
        samples(tmp_path, NPZ, npz(tmp_path, image=np.array([{}], dtype=object)))


def test_kinds_that_are_mixed_up_are_told_apart(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", rows(9))
    with pytest.raises(StageError) as caught:
        samples(tmp_path, NPZ, {"data": tmp_path / "x.npy"})
    assert caught.value.hint == "use kind: npy"
    with pytest.raises(StageError) as caught:
        samples(tmp_path, {"kind": "npy"}, npz(tmp_path, image=rows(9)))
    assert caught.value.hint == "use kind: npz"
