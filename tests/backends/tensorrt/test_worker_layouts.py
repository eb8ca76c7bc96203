"""Memory layouts of inputs and outputs, against the formulas of TensorRT's documentation."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from orchestrator.backends.tensorrt import worker

Array = np.ndarray[Any, Any]
#: Layout → where the documentation of ``TensorFormat`` puts the element (n, c, …).
VECTORS = {"CHW2": 2, "CHW4": 4, "CHW16": 16, "CHW32": 32, "CDHW32": 32}
LAST = {"HWC": 1, "HWC8": 8, "HWC16": 16, "DHWC": 1, "DHWC8": 8}


def place(layout: str, n: int, c: int, *rest: int) -> tuple[int, ...]:
    if layout in VECTORS:
        return (n, c // VECTORS[layout], *rest, c % VECTORS[layout])
    return (n, *rest, c)


def shape_of(layout: str, channels: int) -> tuple[int, ...]:
    return (2, channels, 2, 3, 5) if "D" in layout else (2, channels, 3, 5)


@pytest.mark.parametrize("layout", sorted(worker.LAYOUTS))
@pytest.mark.parametrize("channels", [1, 3, 8, 33])
def test_elements_lie_where_tensorrt_looks_for_them(layout: str, channels: int) -> None:
    shape = shape_of(layout, channels)
    array = np.arange(1, np.prod(shape) + 1, dtype=np.float32).reshape(shape)
    stored = worker.pack_layout(array, layout)
    assert stored.shape == worker.stored_shape(shape, layout)
    assert stored.flags.c_contiguous
    for index in itertools.product(*map(range, shape)):
        assert stored[place(layout, *index)] == array[index]
    width = {**VECTORS, **LAST}[layout]
    assert stored.size == array.size // channels * (-(-channels // width) * width)
    assert np.count_nonzero(stored) == array.size, "padding is zero"
    np.testing.assert_array_equal(worker.unpack_layout(stored, shape, layout), array, strict=True)


def test_every_layout_of_the_configuration_but_those_of_a_dla_can_be_run() -> None:
    runnable = {"LINEAR", *worker.LAYOUTS}
    assert set(worker.LAYOUT_WORDS.values()) - runnable == {"DLA_LINEAR", "DLA_HWC4"}
    assert set(VECTORS) | set(LAST) == set(worker.LAYOUTS)


def test_a_tensor_without_batch_and_the_linear_layout() -> None:
    array = np.arange(12, dtype=np.float16).reshape(3, 2, 2)
    stored = worker.pack_layout(array, "CHW4")
    assert stored.shape == (1, 2, 2, 4)
    np.testing.assert_array_equal(worker.unpack_layout(stored, (3, 2, 2), "CHW4"), array)
    assert worker.pack_layout(array, "LINEAR") is array
    port = worker.Port("x", True, "float16", (-1, 3, 2, 2), False, "CHW4")
    assert port.size((5, 3, 2, 2)) == 5 * 4 * 2 * 2 * 2
    assert port._replace(layout="LINEAR").size((5, 3, 2, 2)) == 5 * 3 * 2 * 2 * 2
