from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from orchestrator.errors import StageError
from orchestrator.numerics.batches import read_batches
from orchestrator.stages import reference
from tests.modules import nets
from tests.modules.samples import export_params, write_samples
from tests.stage_context import StageRun, run_stage

X = {"x": ("float32", ["batch", 4])}
POINTS = {"opt": {"batch": 3}, "min": {"batch": 1}, "max": {"batch": 8}}


def referenced(tmp_path: Path, factory: str, outputs: list[str], **options: object) -> StageRun:
    params = export_params(factory, X, outputs, **options)  # type: ignore[arg-type]
    samples = write_samples(tmp_path / "samples", params["inputs"], POINTS)
    return run_stage(reference.STAGE, tmp_path, params, {"samples": samples})


def test_outputs_are_what_the_module_computes_batch_by_batch(tmp_path: Path) -> None:
    run = referenced(tmp_path, "Linear", ["y"], args={"width": 2})
    torch.manual_seed(0)
    module = nets.Linear(2).eval()
    pairs = list(
        zip(read_batches(tmp_path / "samples"), read_batches(run.outputs["outputs"]), strict=True)
    )
    assert [batch.point for (batch, _), _ in pairs] == ["opt", "min", "max"]
    for (sample, feeds), (batch, found) in pairs:
        assert batch == sample
        with torch.inference_mode():
            expected = module(torch.from_numpy(feeds["x"])).numpy()
        np.testing.assert_array_equal(found["y"], expected)
    assert run.values == {"outputs": {"y": {"dtype": "float32"}}}


def test_values_that_are_not_finite_are_kept(tmp_path: Path) -> None:
    run = referenced(tmp_path, "NotFinite", ["y"])
    for _, found in read_batches(run.outputs["outputs"]):
        assert np.isnan(found["y"]).all()


def test_a_wrong_number_of_outputs_is_named(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"returns 1 outputs .* but 2 are declared") as caught:
        referenced(tmp_path, "Linear", ["y", "z"])
    assert caught.value.where == "model.outputs"


def test_samples_of_another_shape_are_refused(tmp_path: Path) -> None:
    params = export_params("Linear", {"x": ("float32", ["batch", 5])}, ["y"])
    samples = write_samples(tmp_path / "samples", params["inputs"], POINTS)
    with pytest.raises(StageError, match="x \\[3, 5\\] float32") as caught:
        run_stage(reference.STAGE, tmp_path, params, {"samples": samples})
    assert caught.value.where == "model.inputs"
    params["inputs"]["x"]["shape"] = ["batch", 4]
    with pytest.raises(StageError, match="declared is float32"):
        run_stage(reference.STAGE, tmp_path, params, {"samples": samples})


def test_an_input_without_samples_is_named(tmp_path: Path) -> None:
    params = export_params("Linear", X, ["y"])
    samples = write_samples(tmp_path / "samples", params["inputs"], POINTS)
    params["inputs"] = {"xs": params["inputs"]["x"]}
    with pytest.raises(StageError, match="no input 'xs'") as caught:
        run_stage(reference.STAGE, tmp_path, params, {"samples": samples})
    assert caught.value.hint == "did you mean 'x'?"
