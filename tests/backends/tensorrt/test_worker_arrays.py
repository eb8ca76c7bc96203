"""Arrays on their way into and out of an engine."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.backends.tensorrt import worker

Array = np.ndarray[Any, Any]


def test_npz_holds_every_name_and_type(tmp_path: Path) -> None:
    arrays = {
        "file": np.arange(6, dtype=np.int64).reshape(2, 3),
        "/head/out:0": np.array([1, 2], np.float16),
        "allow_pickle": np.array(True),
        "empty": np.zeros((0, 4), np.float32),
        "turned": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    }
    path = str(tmp_path / "a.npz")
    worker.write_npz(path, arrays)
    found = worker.read_npz(path)
    with np.load(path, allow_pickle=False) as plain:
        assert set(plain.files) == set(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array, strict=True)
    assert [item.name for item in tmp_path.iterdir()] == ["a.npz"]


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 cut"])
def test_what_is_no_npz_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(content)
    with pytest.raises(worker.Failure, match="holds no arrays"):
        worker.read_npz(str(path))


def test_object_arrays_are_never_unpickled(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, x=np.array([{}], dtype=object))
    with pytest.raises(worker.Failure, match="holds no arrays"):
        worker.read_npz(str(path))


@pytest.mark.parametrize(
    ("have", "wanted"),
    [
        (np.array([[1, 2]], np.float32), "float32"),
        (np.array([1, -2], np.int64), "int32"),
        (np.array([255], np.uint8), "int64"),
        (np.array([0.5], np.float64), "float32"),
        (np.array(3, np.int64), "int32"),
        (np.zeros((0, 2), np.int64), "int32"),
        (np.array([True]), "bool"),
    ],
)
def test_values_survive_the_engines_type(have: Array, wanted: str) -> None:
    found = worker.as_type("x", have, wanted)
    assert found.dtype.name == wanted
    assert found.shape == have.shape
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(found, have)


def test_strided_arrays_become_contiguous() -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4)[:, ::2]
    found = worker.as_type("x", array, "float32")
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(found, array)


def test_integers_that_do_not_fit_are_refused() -> None:
    with pytest.raises(worker.Failure, match=r"'ids' is int32.*4294967296 do not fit") as caught:
        worker.as_type("ids", np.array([0, 1 << 32]), "int32")
    assert "TensorRT >= 10" in caught.value.hint


@pytest.mark.parametrize(
    ("have", "wanted"), [("float16", "float32"), ("float32", "int32"), ("bool", "int32")]
)
def test_other_types_are_refused(have: str, wanted: str) -> None:
    with pytest.raises(worker.Failure, match=f"'x' is {wanted} in the engine, got {have}"):
        worker.as_type("x", np.zeros(2, have), wanted)


def test_floats_become_the_engines_half_when_they_fit() -> None:
    values = np.array([1.0, 65504.0, 1e-9, np.inf, np.nan], np.float32)
    found = worker.as_type("x", values, "float16")
    np.testing.assert_array_equal(found, values.astype(np.float16), strict=True)
    with pytest.raises(worker.Failure, match=r"'x' is float16.*70000.0 do not fit") as caught:
        worker.as_type("x", np.array([1.0, 7e4], np.float32), "float16")
    assert "target.input_formats" in caught.value.hint


@given(st.floats(width=32, allow_nan=False))
@settings(deadline=None)
def test_bfloat16_rounds_to_nearest_even(value: float) -> None:
    array = np.array([value], np.float32)
    bits = worker.to_bfloat16(array)
    assert bits.dtype == np.uint16
    expected = torch.from_numpy(array).bfloat16()
    np.testing.assert_array_equal(worker.from_bfloat16(bits), expected.float().numpy())


def test_bfloat16_keeps_nan_and_scalars() -> None:
    quiet_low_bits = np.array([0x7F800001, 0xFFFFFFFF], np.uint32).view(np.float32)
    assert np.isnan(worker.from_bfloat16(worker.to_bfloat16(quiet_low_bits))).all()
    assert worker.from_bfloat16(worker.to_bfloat16(np.array(1.5, np.float32))).shape == ()


def test_pinned_memory_is_seen_not_copied() -> None:
    memory = ctypes.create_string_buffer(24)
    array = worker.pinned_array(ctypes.addressof(memory), "float32", (2, 3))
    array[...] = [[1, 2, 3], [4, 5, 6]]
    assert np.frombuffer(memory.raw, np.float32).tolist() == [1, 2, 3, 4, 5, 6]
    assert worker.pinned_array(0, "float32", (0, 3)).shape == (0, 3)
