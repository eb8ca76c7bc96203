from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.errors import StageError
from orchestrator.numerics.batches import read_labels
from tests.data.helpers import read, samples


def counting(*, dims: Mapping[str, int], offset: int, seed: int, step: int = 1) -> dict[str, Any]:
    numbers = (offset + np.arange(dims["batch"])) * step + seed
    return {"image": np.repeat(numbers[:, None], 3, axis=1), "label": numbers % 10}


def one_row_short(*, dims: Mapping[str, int], offset: int, seed: int) -> dict[str, Any]:
    return {"image": np.zeros((max(dims["batch"] - 1, 1), 3))}


def one_label(*, dims: Mapping[str, int], offset: int, seed: int) -> dict[str, Any]:
    return {"image": np.zeros((dims["batch"], 3)), "label": np.zeros(1)}


def ragged(*, dims: Mapping[str, int], offset: int, seed: int) -> dict[str, Any]:
    return {"image": [[1, 2, 3], [1, 2]]}


def objects(*, dims: Mapping[str, int], offset: int, seed: int) -> dict[str, Any]:
    return {"image": np.array([{}], dtype=object)}


def misnamed(*, dims: Mapping[str, int], offset: int, seed: int) -> dict[str, Any]:
    return {"images": np.zeros((dims["batch"], 3))}


def incomplete(*, dims: Mapping[str, int], offset: int, seed: int) -> dict[str, Any]:
    return {}


def a_list(*, dims: Mapping[str, int], offset: int, seed: int) -> list[int]:
    return [1]


def failing(*, dims: Mapping[str, int], offset: int, seed: int) -> dict[str, Any]:
    return {"image": 1 / 0}


def data(name: str, **more: Any) -> dict[str, Any]:
    return {"kind": "callable", "function": f"{__name__}:{name}", **more}


def test_the_function_gets_dims_offset_seed_and_args(tmp_path: Path) -> None:
    asked = data("counting", args={"step": 2}, seed=5, labels="label")
    batches = read(samples(tmp_path, asked))
    firsts = np.concatenate([arrays["image"][:, 0] for _, arrays in batches])
    np.testing.assert_array_equal(firsts, np.arange(15) * 2 + 5)
    assert all(arrays.keys() == {"image"} for _, arrays in batches)
    assert batches[0][1]["image"].dtype == np.float32


def test_labels_leave_the_inputs_and_are_kept_for_a_task(tmp_path: Path) -> None:
    run = samples(tmp_path, data("counting", labels="label"), purpose="task", count=10)
    labels = read_labels(run.outputs["samples"])
    np.testing.assert_array_equal(labels, np.arange(10))
    assert [batch.items for batch, _ in read(run)] == [4, 4, 2]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (data("one_row_short"), r"have shape \[3, 3\], but \[4, 3\] is needed .* at batch=4"),
        (data("ragged"), "'image' is no array"),
        (data("objects"), "'image' is an array of Python objects"),
        (data("misnamed"), "'images' is no input of the model.*\n.*did you mean 'image'"),
        (data("incomplete"), "nothing is given for input 'image'; given: nothing"),
        (data("a_list"), "returned a list, not a dictionary"),
        (data("failing"), "ZeroDivisionError: division by zero"),
        (data("counting", args={"stepp": 2}), "TypeError: .*stepp"),
        (data("counting"), "'label' is no input of the model"),
        (data("misnamed", labels="label"), "returned no 'label'"),
        (data("one_label", labels="label"), r"labels 'label' of shape \[1\] for 4 items"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, asked: dict[str, Any], message: str) -> None:
    with pytest.raises(StageError, match=message) as caught:
        samples(tmp_path, asked)
    assert "model.samples" in caught.value.where
