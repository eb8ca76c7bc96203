from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.errors import StageError
from orchestrator.numerics.batches import read_batches, read_index, write_batches
from orchestrator.stages import run
from tests.backends import nets
from tests.stage_context import StageRun, run_stage


def _run(tmp_path: Path, tree: Path, samples: Path, outputs: list[str] | None = None) -> StageRun:
    params = {"target": nets.AS_IT_STANDS, "outputs": outputs or ["y"]}
    return run_stage(run.STAGE, tmp_path, params, {"model": tree, "samples": samples})


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return nets.save(nets.matmul_net(), tmp_path / "onnx")


def test_outputs_have_the_batches_of_the_samples(tmp_path: Path, tree: Path) -> None:
    samples = nets.samples(tmp_path / "samples", 8, sizes=(1, 4, 4))
    done = _run(tmp_path, tree, samples)
    assert read_index(done.outputs["outputs"]) == read_index(samples)
    assert done.values == {"outputs": {"y": {"dtype": "float32"}}}
    weight = np.random.default_rng(1).standard_normal((8, 8)).astype(np.float32)
    given = [arrays["x"] for _, arrays in read_batches(samples)]
    for x, (_, arrays) in zip(given, read_batches(done.outputs["outputs"]), strict=True):
        np.testing.assert_allclose(arrays["y"], np.maximum(x @ weight, 0), rtol=1e-5, atol=1e-5)


def test_two_runs_give_the_same_bytes(tmp_path: Path, tree: Path) -> None:
    samples = nets.samples(tmp_path / "samples", 8)
    files = [
        {path.name: path.read_bytes() for path in done.outputs["outputs"].iterdir()}
        for done in (_run(tmp_path, tree, samples), _run(tmp_path, tree, samples))
    ]
    assert files[0] == files[1]


@pytest.mark.parametrize(
    ("feed", "words"),
    [
        ({"name": "xx"}, r"no input 'xx'; it has x[\s\S]*did you mean 'x'"),
        ({"dtype": np.float64}, r"input 'x' takes float32\[\?, 8\], got float64\[2, 8\]"),
        ({"size": 7}, r"input 'x' takes float32\[\?, 8\], got float32\[2, 7\]"),
    ],
)
def test_unfit_samples_are_told_in_the_users_terms(
    tmp_path: Path, tree: Path, feed: dict[str, Any], words: str
) -> None:
    samples = nets.samples(
        tmp_path / "samples",
        feed.get("size", 8),
        name=feed.get("name", "x"),
        dtype=feed.get("dtype", np.float32),
    )
    with pytest.raises(StageError, match=words):
        _run(tmp_path, tree, samples)


def test_a_missing_input_is_named(tmp_path: Path, tree: Path) -> None:
    samples = tmp_path / "samples"
    samples.mkdir()
    write_batches(samples, [(nets.batch(0, 1), {})])
    with pytest.raises(StageError, match=r"input 'x' \(float32\[\?, 8\]\) was given no data"):
        _run(tmp_path, tree, samples)


def test_a_missing_output_is_named(tmp_path: Path, tree: Path) -> None:
    samples = nets.samples(tmp_path / "samples", 8)
    with pytest.raises(StageError, match="no output 'yy'; it has y"):
        _run(tmp_path, tree, samples, ["yy"])


def test_a_failing_node_is_one_line_with_its_name(tmp_path: Path) -> None:
    tree = nets.save(nets.bad_reshape_net(), tmp_path / "onnx")
    samples = nets.samples(tmp_path / "samples", 4, sizes=(2, 3))
    with pytest.raises(StageError) as info:
        _run(tmp_path, tree, samples)
    assert info.value.where == "node 'reshape'"
    assert "Reshape failed: " in info.value.message
    assert "cannot be reshaped" in info.value.message
    assert "\n" not in info.value.message
    assert "onnxruntime_src" not in info.value.message


def test_no_samples_are_an_error(tmp_path: Path, tree: Path) -> None:
    samples = tmp_path / "samples"
    samples.mkdir()
    write_batches(samples, [])
    with pytest.raises(StageError, match="no sample batches"):
        _run(tmp_path, tree, samples)
