from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, helper

from orchestrator.errors import StageError
from orchestrator.graphs import files as onnx_files
from orchestrator.stages import import_onnx
from tests.modules import graphs
from tests.stage_context import StageRun, run_stage

X = np.linspace(-2, 2, 12, dtype=np.float32).reshape(3, 4)


def params(**changes: Any) -> dict[str, Any]:
    return {
        "inputs": {"x": {"dtype": "float32", "shape": ["n", 4]}},
        "outputs": ["y"],
        "dims": {"n": [1, 8]},
        **changes,
    }


def imported(tmp_path: Path, path: Path, **changes: Any) -> StageRun:
    return run_stage(import_onnx.STAGE, tmp_path, params(**changes), paths={"onnx": path})


def saved(tmp_path: Path, model: ModelProto) -> Path:
    path = tmp_path / "user" / "net.onnx"
    path.parent.mkdir(exist_ok=True)
    onnx.save(model, path)
    return path


def test_a_file_enters_with_the_declared_dimension_names(tmp_path: Path) -> None:
    path = saved(tmp_path, graphs.chain())
    run = imported(tmp_path, path)
    root = run.outputs["onnx"]
    facts = onnx_files.graph_facts(root)
    assert facts.inputs[0].dims == ("n", 4)
    assert facts.outputs[0].dims == ("n", 4)
    assert run.values == {"opset": 18, "nodes": 3}
    assert run.observed.files == [path]
    np.testing.assert_array_equal(
        graphs.run(root, x=X)[0], graphs.run(graphs.tree(tmp_path / "t", graphs.chain()), x=X)[0]
    )


def test_external_data_are_read_and_recorded(tmp_path: Path) -> None:
    path = tmp_path / "user" / "net.onnx"
    path.parent.mkdir()
    onnx.save_model(
        graphs.large(), path, save_as_external_data=True, location="net.data", size_threshold=1024
    )
    run = imported(tmp_path, path)
    assert run.observed.files == [path, path.parent / "net.data"]
    expected = graphs.run(graphs.tree(tmp_path / "t", graphs.large()), x=X)[0]
    np.testing.assert_array_equal(graphs.run(run.outputs["onnx"], x=X)[0], expected)
    (path.parent / "net.data").unlink()
    with pytest.raises(StageError, match=r"'net\.data' is missing"):
        imported(tmp_path, path)


def test_external_data_outside_the_folder_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "user" / "net.onnx"
    path.parent.mkdir()
    onnx.save_model(graphs.large(), path, save_as_external_data=True, location="net.data")
    outside = (path.parent / "net.data").rename(tmp_path / "net.data")
    (path.parent / "net.data").symlink_to(outside)
    with pytest.raises(StageError, match="leaves the model's folder"):
        imported(tmp_path, path)
    (path.parent / "net.data").unlink()
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../net.data"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(StageError, match="outside the model's folder"):
        imported(tmp_path, path)


def test_files_that_are_no_onnx_are_named(tmp_path: Path) -> None:
    path = saved(tmp_path, graphs.chain())
    content = path.read_bytes()
    for wrong in (b"", b"not a model", content[: len(content) // 2]):
        path.write_bytes(wrong)
        with pytest.raises(StageError, match=r"is no (complete )?ONNX model") as caught:
            imported(tmp_path, path)
        assert "net.onnx" in caught.value.render()
    path.unlink()
    with pytest.raises(StageError, match="does not exist"):
        imported(tmp_path, path)


@pytest.mark.parametrize(
    ("changes", "message", "hint"),
    [
        (
            {"inputs": {"xs": {"dtype": "float32", "shape": ["n", 4]}}},
            r"has the inputs \['x'\], declared are \['xs'\]",
            "did you mean 'x'?",
        ),
        ({"outputs": ["y", "z"]}, r"has the outputs \['y'\]", ""),
        (
            {"inputs": {"x": {"dtype": "float16", "shape": ["n", 4]}}},
            "is float32 in the file, float16 in model.inputs",
            "model.inputs.x.dtype=float32",
        ),
        (
            {"inputs": {"x": {"dtype": "float32", "shape": ["n", 5]}}},
            "axis 1 is 4 in the file, declared is 5",
            "",
        ),
        (
            {"inputs": {"x": {"dtype": "float32", "shape": ["n", "n"]}}},
            "axis 1 is frozen to 4 in the file, declared is dynamic 'n'",
            "",
        ),
        ({"inputs": {"x": {"dtype": "float32", "shape": [4]}}}, "has 2 axes in the file", ""),
    ],
)
def test_a_file_that_differs_from_the_declaration_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str, hint: str
) -> None:
    path = saved(tmp_path, graphs.chain())
    with pytest.raises(StageError, match=message) as caught:
        imported(tmp_path, path, **changes)
    assert hint in caught.value.hint
    assert caught.value.where == "model.onnx"


def test_a_dimension_declared_static_becomes_static(tmp_path: Path) -> None:
    path = saved(tmp_path, graphs.chain())
    run = imported(tmp_path, path, dims={"n": [3, 3]})
    facts = onnx_files.graph_facts(run.outputs["onnx"])
    assert facts.inputs[0].dims == (3, 4)
    assert facts.outputs[0].dims == (3, 4)


def test_initializers_among_the_inputs_are_no_inputs(tmp_path: Path) -> None:
    model = graphs.chain(8)
    model.ir_version = 3
    for name in ("shift", "scale"):
        model.graph.input.append(helper.make_tensor_value_info(name, graphs.FLOAT, [4]))
    run = imported(tmp_path, saved(tmp_path, model))
    loaded = onnx_files.load(run.outputs["onnx"])
    assert [value.name for value in loaded.graph.input] == ["x"]


def test_an_invalid_model_is_refused(tmp_path: Path) -> None:
    model = graphs.chain()
    model.graph.node[1].op_type = "NoSuchOp"
    with pytest.raises(StageError, match="NoSuchOp"):
        imported(tmp_path, saved(tmp_path, model))
