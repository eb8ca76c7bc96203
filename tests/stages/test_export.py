from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch

from orchestrator.errors import StageError
from orchestrator.graphs import files as onnx_files
from orchestrator.numerics.batches import read_batches
from orchestrator.stages import export, reference
from tests.modules.samples import export_params, write_samples
from tests.stage_context import StageRun, run_stage

BATCH = {"batch": [1, 8]}
X = {"x": ("float32", ["batch", 4])}
POINTS = {"opt": {"batch": 3}, "min": {"batch": 1}, "max": {"batch": 8}}


def exported(
    tmp_path: Path,
    params: Mapping[str, Any],
    points: Mapping[str, Mapping[str, int]] | None = None,
) -> StageRun:
    samples = write_samples(
        tmp_path / "samples", params["inputs"], POINTS if points is None else points
    )
    return run_stage(export.STAGE, tmp_path, params, {"samples": samples})


def session(run: StageRun) -> ort.InferenceSession:
    return ort.InferenceSession(
        onnx_files.model_path(run.outputs["onnx"]), providers=["CPUExecutionProvider"]
    )


def assert_equals_torch(tmp_path: Path, run: StageRun, params: Mapping[str, Any]) -> None:
    """Every batch, at every size, gives in ONNX Runtime what the module gives."""
    root = tmp_path / "samples"
    expected = run_stage(reference.STAGE, tmp_path, params, {"samples": root}).outputs["outputs"]
    loaded = session(run)
    for (_, feeds), (_, wanted) in zip(read_batches(root), read_batches(expected), strict=True):
        results = loaded.run(list(params["outputs"]), feeds)
        for name, result in zip(params["outputs"], results, strict=True):
            np.testing.assert_allclose(result, wanted[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("exporter", "opset"),
    [
        ("torchscript", 11),
        ("torchscript", 13),
        ("torchscript", 17),
        ("dynamo", 17),  # by conversion
        ("dynamo", 18),
        ("dynamo", 20),
    ],
)
def test_the_file_is_what_was_asked_for(tmp_path: Path, exporter: str, opset: int) -> None:
    params = export_params(
        "ConvNet",
        {"image": ("float32", ["batch", 1, 8, 8])},
        ["logits", "features"],
        dims=BATCH,
        exporter=exporter,
        opset=opset,
    )
    run = exported(tmp_path, params)
    facts = onnx_files.graph_facts(run.outputs["onnx"])
    assert facts.opset == opset == run.values["opset"]
    assert [(p.name, p.dtype, p.dims) for p in facts.inputs] == [
        ("image", "float32", ("batch", 1, 8, 8))
    ]
    assert [(p.name, p.dims) for p in facts.outputs] == [
        ("logits", ("batch", 10)),
        ("features", ("batch", 4)),
    ]
    assert_equals_torch(tmp_path, run, params)


@pytest.mark.parametrize(("exporter", "opset"), [("torchscript", 17), ("dynamo", 18)])
def test_two_inputs_two_dimensions_and_a_dict_of_outputs(
    tmp_path: Path, exporter: str, opset: int
) -> None:
    shape = ["batch", "length"]
    params = export_params(
        "Encoder",
        {"mask": ("int64", shape), "ids": ("int64", shape)},  # not the order of forward
        ["pooled", "state"],  # not the order of the dict
        dims={"batch": [1, 8], "length": [1, 16]},
        exporter=exporter,
        opset=opset,
    )
    points = {
        p: {"batch": b, "length": n} for p, b, n in (("opt", 4, 4), ("min", 1, 1), ("max", 8, 16))
    }
    run = exported(tmp_path, params, points)
    facts = onnx_files.graph_facts(run.outputs["onnx"])
    assert [(p.name, p.dims) for p in facts.inputs] == [
        ("mask", ("batch", "length")),
        ("ids", ("batch", "length")),
    ]
    assert [(p.name, p.dims) for p in facts.outputs] == [
        ("pooled", ("batch", 4)),
        ("state", ("batch", "length", 4)),
    ]
    assert_equals_torch(tmp_path, run, params)


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
def test_multi_head_attention_is_exported(tmp_path: Path, exporter: str) -> None:
    x = {"x": ("float32", ["batch", 6, 8])}
    params = export_params("Attention", x, ["y"], dims=BATCH, exporter=exporter)
    assert_equals_torch(tmp_path, exported(tmp_path, params), params)


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
def test_names_that_torch_uses_inside_are_the_declared_ones(tmp_path: Path, exporter: str) -> None:
    ids = {"add": ("int64", ["batch", 3])}
    params = export_params("Embedding", ids, ["embedding"], dims=BATCH, exporter=exporter)
    run = exported(tmp_path, params, POINTS)
    assert_equals_torch(tmp_path, run, params)
    provenance = json.loads((run.outputs["provenance"] / "provenance.json").read_text())
    modules = {entry["module"] for entry in provenance.values()}
    assert {"layers.0.0", "layers.0.1"} <= modules


@pytest.mark.parametrize("kind", ["list", "same"])
@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
def test_an_output_that_is_an_input_and_one_value_given_twice(
    tmp_path: Path, exporter: str, kind: str
) -> None:
    params = export_params(
        "Structured", X, ["first", "second"], dims=BATCH, args={"kind": kind}, exporter=exporter
    )
    assert_equals_torch(tmp_path, exported(tmp_path, params), params)


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
def test_an_optimum_of_one_stays_dynamic(tmp_path: Path, exporter: str) -> None:
    params = export_params("Linear", X, ["y"], dims=BATCH, exporter=exporter)
    run = exported(tmp_path, params, {"opt": {"batch": 1}, "max": {"batch": 8}})
    assert onnx_files.graph_facts(run.outputs["onnx"]).inputs[0].dims == ("batch", 4)
    assert_equals_torch(tmp_path, run, params)


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
def test_equal_minimum_and_maximum_are_static(tmp_path: Path, exporter: str) -> None:
    params = export_params("Linear", X, ["y"], dims={"batch": [3, 3]}, exporter=exporter)
    facts = onnx_files.graph_facts(
        exported(tmp_path, params, {"opt": {"batch": 3}}).outputs["onnx"]
    )
    assert facts.inputs[0].dims == (3, 4)
    assert facts.outputs[0].dims == (3, 3)


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
def test_an_unused_input_is_kept(tmp_path: Path, exporter: str) -> None:
    inputs = {"unused": ("int64", ["batch", 2]), "x": ("float32", ["batch", 4])}
    params = export_params("MaskUnused", inputs, ["y"], dims=BATCH, exporter=exporter)
    run = exported(tmp_path, params)
    assert [p.name for p in onnx_files.graph_facts(run.outputs["onnx"]).inputs] == ["unused", "x"]
    assert_equals_torch(tmp_path, run, params)


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
def test_inputs_of_star_args_go_by_position(tmp_path: Path, exporter: str) -> None:
    inputs = {"b": ("float32", ["batch", 4]), "a": ("float32", ["batch", 4])}
    params = export_params("Star", inputs, ["y"], dims=BATCH, exporter=exporter)
    run = exported(tmp_path, params)
    assert_equals_torch(tmp_path, run, params)


def test_dynamo_refuses_an_opset_that_it_cannot_convert_to(tmp_path: Path) -> None:
    params = export_params("Grid", X, ["y"], dims=BATCH, opset=11)
    with pytest.raises(StageError, match="exporter=torchscript") as caught:
        exported(tmp_path, params)
    assert "from opset 18 on" in caught.value.message
    assert caught.value.where == "exporter.opset"


@pytest.mark.parametrize(
    ("exporter", "range_"), [("torchscript", "writes 7 to 20"), ("dynamo", "writes 18 to ")]
)
def test_opset_99_is_one_line_with_the_range(tmp_path: Path, exporter: str, range_: str) -> None:
    params = export_params("Linear", X, ["y"], dims=BATCH, exporter=exporter, opset=99)
    with pytest.raises(StageError) as caught:
        exported(tmp_path, params)
    assert "opset 99 is not supported" in caught.value.message
    assert range_ in caught.value.message
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("exporter", "inner", "operator"),
    [
        ("dynamo", "Mystery", "orchestrate_tests.mystery"),
        ("dynamo", "Bessel", "bessel_j0"),
        ("torchscript", "Mystery", "orchestrate_tests::mystery"),
        ("torchscript", "Bessel", "aten::special_bessel_j0"),
    ],
)
def test_an_operator_without_translation_is_named_with_its_module_path_and_line(
    tmp_path: Path, exporter: str, inner: str, operator: str
) -> None:
    params = export_params("Deep", X, ["y"], dims=BATCH, args={"inner": inner}, exporter=exporter)
    with pytest.raises(StageError) as caught:
        exported(tmp_path, params)
    text = caught.value.render()
    assert operator in text
    assert "'backbone.block1.attn'" in text
    assert "has no translation to ONNX" in text
    assert "tests/modules/nets.py:" in text


def test_an_operator_of_a_newer_opset_says_which(tmp_path: Path) -> None:
    params = export_params(
        "Deep", X, ["y"], dims=BATCH, args={"inner": "Grid"}, exporter="torchscript", opset=13
    )
    with pytest.raises(StageError, match=r"exporter\.opset=16") as caught:
        exported(tmp_path, params)
    assert "'backbone.block1.attn'" in caught.value.message


def test_dynamo_names_the_module_whose_path_depends_on_the_data(tmp_path: Path) -> None:
    params = export_params("Deep", X, ["y"], dims=BATCH, args={"inner": "Branch"})
    with pytest.raises(StageError, match="control flow depends on the data") as caught:
        exported(tmp_path, params)
    assert "'backbone.block1.attn'" in caught.value.message
    assert "if x.sum() > 0" in caught.value.message


def test_torchscript_logs_what_the_trace_froze(tmp_path: Path) -> None:
    params = export_params(
        "Deep", X, ["y"], dims=BATCH, args={"inner": "Branch"}, exporter="torchscript"
    )
    run = exported(tmp_path, params)
    frozen = [line for line in run.log if "TracerWarning" in line and "boolean" in line]
    assert frozen
    assert "tests/modules/nets.py:" in frozen[0]


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
def test_a_module_that_raises_is_named(tmp_path: Path, exporter: str) -> None:
    params = export_params(
        "Deep", X, ["y"], dims=BATCH, args={"inner": "Broken"}, exporter=exporter
    )
    with pytest.raises(StageError) as caught:
        exported(tmp_path, params)
    assert "'backbone.block1.attn'" in caught.value.message
    assert "x [3, 4] float32" in caught.value.message


def test_torchscript_a_dimension_frozen_while_tracing_is_refused(tmp_path: Path) -> None:
    params = export_params("FixedBatch", X, ["y"], dims=BATCH, exporter="torchscript")
    with pytest.raises(StageError, match="output 'y' axis 0 is frozen to 6") as caught:
        exported(tmp_path, params)
    assert "batch" in caught.value.message


def test_dynamo_a_dimension_frozen_by_the_model_is_refused(tmp_path: Path) -> None:
    params = export_params("ThreeRows", X, ["y"], dims=BATCH)
    with pytest.raises(StageError, match="freezes dimension 'batch'") as caught:
        exported(tmp_path, params, {"opt": {"batch": 3}})
    assert "input 'x' axis 0" in caught.value.message
    assert "to 3" in caught.value.message


def test_dynamo_keeps_a_dimension_that_must_be_even(tmp_path: Path) -> None:
    params = export_params("Pairs", X, ["y"], dims={"batch": [2, 8]})
    run = exported(tmp_path, params, {"opt": {"batch": 4}, "max": {"batch": 8}})
    assert onnx_files.graph_facts(run.outputs["onnx"]).inputs[0].dims == ("batch", 4)
    assert_equals_torch(tmp_path, run, params)


def test_dynamo_a_range_that_the_model_narrows_is_refused(tmp_path: Path) -> None:
    params = export_params("FewPositions", X, ["y"], dims=BATCH)
    with pytest.raises(StageError, match=r"works for batch in .*5 only") as caught:
        exported(tmp_path, params, {"opt": {"batch": 3}})
    assert caught.value.where == "model.dims.batch"


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
def test_provenance_gives_the_module_path_and_source_of_nodes(
    tmp_path: Path, exporter: str
) -> None:
    image = {"image": ("float32", ["batch", 1, 8, 8])}
    params = export_params("ConvNet", image, ["logits", "features"], dims=BATCH, exporter=exporter)
    run = exported(tmp_path, params)
    provenance = json.loads((run.outputs["provenance"] / "provenance.json").read_text())
    model = onnx_files.load(run.outputs["onnx"])
    convs = [node.name for node in model.graph.node if node.op_type == "Conv"]
    assert convs
    assert {provenance[name]["module"] for name in convs} <= {"conv", "norm"}
    assert all(provenance[name]["source"].startswith("tests/modules/nets.py:") for name in convs)


@pytest.mark.parametrize(
    "exporter", ["torchscript", pytest.param("dynamo", marks=pytest.mark.slow)]
)
def test_exporters_do_not_reach_the_terminal_and_repeat_byte_for_byte(
    tmp_path: Path,
    exporter: str,
    capfd: pytest.CaptureFixture[str],
    recwarn: pytest.WarningsRecorder,
) -> None:
    params = export_params("Linear", X, ["y"], dims=BATCH, exporter=exporter)
    runs = [exported(tmp_path, params) for _ in range(2)]
    assert capfd.readouterr() == ("", "")
    assert not [w for w in recwarn if "onnx" in str(w.message).lower()]
    files = [onnx_files.model_path(run.outputs["onnx"]).read_bytes() for run in runs]
    assert files[0] == files[1]
    proofs = [(run.outputs["provenance"] / "provenance.json").read_bytes() for run in runs]
    assert proofs[0] == proofs[1]


def test_large_weights_lie_outside_the_file(tmp_path: Path) -> None:
    params = export_params("Wide", {"x": ("float32", ["batch", 2048])}, ["y"], dims=BATCH)
    run = exported(tmp_path, params)
    root = run.outputs["onnx"]
    assert (root / onnx_files.WEIGHTS).stat().st_size >= 17 * 2**20
    assert onnx_files.model_path(root).stat().st_size < 2**16
    assert_equals_torch(tmp_path, run, params)


def test_tools_follow_the_exporter() -> None:
    def tools(name: str) -> Sequence[str]:
        return export.STAGE.tools_for({"exporter": {"name": name}})

    assert tools("dynamo") == ("torch", "onnx", "onnxscript", "onnx-ir")
    assert tools("torchscript") == ("torch", "onnx")


def test_the_module_is_left_as_it_was() -> None:
    from orchestrator.modules import calls
    from tests.modules.nets import Linear

    module = Linear()
    with calls.positional(module, ["x"], ["y"]) as flat:
        assert isinstance(flat(torch.ones(2, 4)), tuple)
    assert isinstance(module(torch.ones(2, 4)), torch.Tensor)
