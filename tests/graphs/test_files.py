from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper

from orchestrator.errors import StageError
from orchestrator.graphs import files as onnx_files
from tests.modules import graphs


def external(model: ModelProto) -> dict[str, int]:
    return {
        t.name: int(next(e.value for e in t.external_data if e.key == "offset"))
        for t in model.graph.initializer
        if t.data_location == TensorProto.EXTERNAL
    }


def test_a_small_model_is_one_file(tmp_path: Path) -> None:
    root = graphs.tree(tmp_path / "t", graphs.chain())
    assert [path.name for path in root.rglob("*")] == ["model.onnx"]
    assert onnx_files.load(root) == graphs.chain()


def test_large_weights_are_stored_once_aligned_and_independent_of_names(tmp_path: Path) -> None:
    first = graphs.tree(tmp_path / "first", graphs.large())
    offsets = external(onnx_files.load(first, weights=False))
    assert set(offsets) == {"a", "b", "c"}  # "one" is below a kibibyte and stays inside
    assert offsets["a"] == offsets["c"] != offsets["b"]
    assert all(offset % onnx_files.ALIGNMENT_BYTES == 0 for offset in offsets.values())
    assert (first / onnx_files.WEIGHTS).stat().st_size < 13 * 2**20

    renamed = graphs.large()
    for tensor in renamed.graph.initializer:
        tensor.name = f"w_{tensor.name}"
    for node in renamed.graph.node:
        for number, name in enumerate(node.input):
            if name in {"a", "b", "c", "one"}:
                node.input[number] = f"w_{name}"
    second = graphs.tree(tmp_path / "second", renamed)
    assert (first / onnx_files.WEIGHTS).read_bytes() == (second / onnx_files.WEIGHTS).read_bytes()

    x = np.ones((2, 4), np.float32)
    for one, other in zip(graphs.run(first, x=x), graphs.run(second, x=x), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_model_loaded_with_its_weights_is_the_one_saved(tmp_path: Path) -> None:
    loaded = onnx_files.load(graphs.tree(tmp_path / "t", graphs.large()))
    expected = {t.name: t.raw_data for t in graphs.large().graph.initializer}
    assert {t.name: t.raw_data for t in loaded.graph.initializer} == expected


def test_saving_without_loading_the_weights_gives_the_same_tree(tmp_path: Path) -> None:
    first = graphs.tree(tmp_path / "first", graphs.large())
    second = tmp_path / "second"
    second.mkdir()
    onnx_files.save(onnx_files.load(first, weights=False), second, source=first)
    for name in (onnx_files.MODEL, onnx_files.WEIGHTS):
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_a_tree_whose_weights_directory_is_a_link_loads(
    tmp_path: Path,
) -> None:
    first = graphs.tree(tmp_path / "first", graphs.large())
    linked = tmp_path / "linked"
    linked.mkdir()
    shutil.copy(first / onnx_files.MODEL, linked)
    (linked / "weights").symlink_to(first / "weights")
    assert onnx_files.load(linked) == onnx_files.load(first)


def test_weights_that_became_small_move_into_the_file(tmp_path: Path) -> None:
    first = graphs.tree(tmp_path / "first", graphs.large())
    model = onnx_files.load(first, weights=False)
    del model.graph.node[1:]
    model.graph.node[0].output[0] = "y"
    keep = [t.SerializeToString() for t in model.graph.initializer if t.name == "a"]
    del model.graph.initializer[:]
    model.graph.initializer.add().ParseFromString(keep[0])
    second = tmp_path / "second"
    second.mkdir()
    onnx_files.save(model, second, source=first)
    assert not (second / "weights").exists()
    onnx_files.check(onnx_files.model_path(second))


@pytest.mark.parametrize(
    "location", ["../secret.bin", "/etc/hostname", "a/../../b", "C:/x", "..\\b"]
)
def test_data_outside_the_folder_are_refused(tmp_path: Path, location: str) -> None:
    root = graphs.tree(tmp_path / "t", graphs.large())
    model = onnx.load(onnx_files.model_path(root), load_external_data=False)
    model.graph.initializer[0].external_data[0].value = location
    onnx_files.model_path(root).write_bytes(model.SerializeToString())
    with pytest.raises(StageError, match="outside the model's folder") as caught:
        onnx_files.load(root)
    assert location in caught.value.message.replace("\\\\", "\\")


def test_missing_and_truncated_files_are_named(tmp_path: Path) -> None:
    root = graphs.tree(tmp_path / "t", graphs.large())
    weights = root / onnx_files.WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(StageError, match=r"weights\.bin' is truncated"):
        onnx_files.load(root)
    weights.unlink()
    with pytest.raises(StageError, match=r"weights\.bin' is missing"):
        onnx_files.load(root)
    path = onnx_files.model_path(root)
    content = path.read_bytes()
    for wrong in (content[: len(content) // 2], b"", b"version https://git-lfs\n", b"\x00" * 99):
        path.write_bytes(wrong)
        with pytest.raises(StageError, match=r"is no (complete )?ONNX model"):
            onnx_files.load(root)
    path.unlink()
    with pytest.raises(StageError, match="no such ONNX file"):
        onnx_files.load(root)


def test_facts_count_what_is_there(tmp_path: Path) -> None:
    facts = onnx_files.graph_facts(graphs.tree(tmp_path / "t", graphs.large(mebibytes=18)))
    assert (facts.opset, facts.ir_version, facts.nodes) == (18, 10, 5)
    assert facts.weights_bytes == 18 * 2**20 + 4
    assert facts.inputs == (onnx_files.Port(name="x", dtype="float32", dims=("batch", 4)),)
    assert facts.outputs[0].dims == ("batch", 6 * 2**20 // 16)


def test_facts_look_into_bodies_and_skip_initializers_among_inputs() -> None:
    model = graphs.parsed(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (bool c, float[2] x, float[2] w) => (float[2] y) <float[2] w = {1, 2}> {
            y = If (c) <
                then_branch = t () => (float[2] a) { a = Add (x, w) },
                else_branch = e () => (float[2] b) <float[2] k = {3, 4}> { b = Mul (x, k) }
            >
        }"""
    )
    facts = onnx_files.facts(model)
    assert facts.nodes == 3
    assert [p.name for p in facts.inputs] == ["c", "x"]
    assert facts.inputs[0].dtype == "bool"
    assert facts.weights_bytes == 16


def test_the_checker_infers_shapes_strictly(tmp_path: Path) -> None:
    wrong = graphs.model(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": np.ones((5, 4), np.float32)}
    )
    root = graphs.tree(tmp_path / "t", wrong)
    with pytest.raises(StageError, match="checker refuses the model") as caught:
        onnx_files.check(onnx_files.model_path(root))
    assert "\n" not in caught.value.message
    onnx_files.check(onnx_files.model_path(graphs.tree(tmp_path / "ok", graphs.chain())))


def test_typed_fields_become_raw_bytes() -> None:
    tensor = helper.make_tensor("t", TensorProto.FLOAT16, [2], [1.0, 2.0])
    assert onnx_files.raw_bytes(tensor) == np.array([1, 2], np.float16).tobytes()
    assert not tensor.int32_data
    assert onnx_files.nbytes(tensor) == 4
