"""The audit of engines, on inspector output of a ResNet-18 of TensorRT 8.6.0, recorded on an H200.

10.x and 11.x layouts follow public listings and NVIDIA's documentation; none was recorded.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from orchestrator.backends.tensorrt.audit import audit_engine
from orchestrator.backends.tensorrt.graph_nodes import onnx_nodes
from orchestrator.backends.tensorrt.inspector import parse, type_in
from orchestrator.backends.tensorrt.tactics import multiplies_in
from orchestrator.backends.tensorrt.work import EngineObserved, LayerWork, OnnxNode, observe
from orchestrator.errors import StageError
from orchestrator.numerics.precision import audit_values

DATA = Path(__file__).parent / "data"
RECORDED = [
    "fp32", "fp32_tf32", "fp16", "fp16_obey", "typed_f16_flag", "qdq_int8", "qdq_int8_fp16",
    "int8_entropy",
]  # fmt: skip
#: Of torchvision's ResNet-18 at 64 × 64, one image: positions · outputs · inputs · kernel, by hand.
RESNET18_FLOPS = 2 * (
    32 * 32 * 64 * 3 * 49
    + 4 * 16 * 16 * 64 * 64 * 9
    + 64 * (128 * 64 * 9 + 3 * 128 * 128 * 9 + 128 * 64)
    + 16 * (256 * 128 * 9 + 3 * 256 * 256 * 9 + 256 * 128)
    + 4 * (512 * 256 * 9 + 3 * 512 * 512 * 9 + 512 * 256)
    + 1000 * 512
)
KEPT = [
    "/conv1/Conv",
    *(f"/layer1/layer1.{block}/conv{at}/Conv" for block in (0, 1) for at in (1, 2)),
]


def recorded(name: str) -> EngineObserved:
    return observe(parse((DATA / f"inspector_8_6_0_{name}.json").read_text(encoding="utf-8")))


def verdict(observed: EngineObserved, name: str, **precision: Any) -> str:
    return str(audit_engine(observed, {"name": name, **precision})["verdict"])


def layer(name: str, kind: str, dtype: str, **fields: Any) -> dict[str, Any]:
    tensor = {"Format/Datatype": dtype, "Location": "Device"}
    return {
        "Name": name,
        "LayerType": kind,
        "Inputs": [{"Name": "a", "Dimensions": [1, 40, 64], **tensor}],
        "Outputs": [{"Name": "b", "Dimensions": [1, 40, 256], **tensor}],
        **fields,
    }


def engine(
    *layers: Mapping[str, Any], nodes: Mapping[str, OnnxNode] | None = None
) -> EngineObserved:
    return observe(parse({"Layers": list(layers), "Bindings": ["x", "y"]}), nodes=nodes)


# -- recorded engines ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "claim"),
    [
        ("fp32", "fp32"),
        ("fp32_tf32", "tf32"),
        ("fp16", "fp16"),
        ("typed_f16_flag", "fp16"),
        ("qdq_int8", "int8"),
        ("qdq_int8_fp16", "int8"),
        ("int8_entropy", "int8"),
    ],
)
def test_each_recorded_engine_proves_its_claim_and_refutes_every_other(
    name: str, claim: str
) -> None:
    observed = recorded(name)
    for asked in ("fp32", "tf32", "fp16", "bf16", "int8", "fp8"):
        assert verdict(observed, asked) == ("proved" if asked == claim else "refuted")


def test_a_typed_fp16_model_built_without_the_flag_is_refuted() -> None:
    # 8.6.0 builds it silently as TF32: same plan size and speed as the recorded tf32 engine.
    values = audit_engine(recorded("fp32_tf32"), {"name": "fp16"})
    assert values["verdict"] == "refuted"
    assert "tf32 100.0%" in values["reason"]
    assert "'/conv1/Conv + /relu/Relu' (tf32)" in values["reason"]
    assert values["storage_precision"] == "fp32"


def test_kept_operators_are_left_out_of_the_claim_and_shown() -> None:
    observed = recorded("fp16_obey")
    assert verdict(observed, "fp16") == "undetermined"
    values = audit_engine(observed, {"name": "fp16", "keep_nodes": KEPT})
    assert values["verdict"] == "proved"
    assert values["covered"] == {"float16": 1.0}
    assert values["kept"] == {"tf32": 0.319}  # 94,765,056 of 297,115,648
    assert "5 layers kept in fp32 compute in tf32" in values["reason"]


def test_an_operator_that_was_to_stay_in_fp32_and_did_not_refutes() -> None:
    values = audit_engine(recorded("fp16"), {"name": "fp16", "keep_nodes": KEPT[:1]})
    assert values["verdict"] == "refuted"
    assert "'/conv1/Conv + /relu/Relu' (fp16)" in values["reason"]


def test_kept_operator_types_count_as_kept_nodes_do() -> None:
    values = audit_engine(recorded("fp16"), {"name": "fp16", "keep_op_types": ["Gemm"]})
    assert values["verdict"] == "refuted"
    assert "'/fc/Gemm' (fp16)" in values["reason"]


@pytest.mark.parametrize("name", RECORDED)
def test_flops_are_resnet18s_whatever_was_fused(name: str) -> None:
    # int8 engines fuse the first convolution with its pooling, which hides the convolution's size.
    observed = recorded(name)
    assert observed.basis == "dimensions"
    assert sum(item.flops for item in observed.work) == RESNET18_FLOPS


def test_weights_are_named_by_their_onnx_nodes() -> None:
    weights = {w.nodes: w for w in recorded("qdq_int8").weights if w.nodes}
    assert weights[("/fc/Gemm",)].consumers == ("Gemm",)
    assert weights[("/conv1/Conv",)].dtype == "int8"
    assert weights[("/conv1/Conv",)].nbytes == 9408


@pytest.mark.parametrize("name", RECORDED)
@pytest.mark.parametrize("asked", ["fp32", "int8"])
def test_the_common_audit_agrees(name: str, asked: str) -> None:
    observed = recorded(name)
    assert audit_values(observed, {"name": asked})["verdict"] == verdict(observed, asked)


def test_int8_evidence_without_a_tactics_name_is_counted_apart() -> None:
    values = audit_engine(recorded("int8_entropy"), {"name": "int8"})
    assert values["evidence"] == {"tactic": 0.9352, "weights": 0.0648}


def test_control_characters_do_not_stop_the_parser() -> None:
    text = (DATA / "inspector_8_6_0_fp16.json").read_text(encoding="utf-8")
    assert "\x1e" in text
    with pytest.raises(ValueError, match="control character"):
        json.loads(text)
    nodes = {node for item in parse(text).layers for node in item.nodes}
    assert {"/conv1/Conv", "/relu/Relu", "/fc/Gemm"} <= nodes


# -- what the inspector does not tell --------------------------------------------------------------


def test_float_weights_without_a_tactics_name_are_fp32_or_tf32() -> None:
    raw = json.loads((DATA / "inspector_8_6_0_int8_entropy.json").read_text(), strict=False)
    fused = next(item for item in raw["Layers"] if item["LayerType"] == "CaskConvActPool")
    fused["ConvWeights"]["Type"] = "Float"
    observed = engine(fused)
    values = audit_engine(observed, {"name": "fp32"})
    assert values["verdict"] == "undetermined"
    assert "fp32 or tf32" in values["reason"]
    assert audit_engine(observed, {"name": "fp32"}, tf32=False)["verdict"] == "proved"
    assert verdict(observed, "fp16") == "refuted"


def region(**fields: Any) -> dict[str, Any]:
    return layer(
        "{ForeignNode[/encoder/Constant.../encoder/Add]}",
        "Myelin",
        "N/A due to dynamic shapes",
        Metadata="[ONNX Layer: /encoder/q/MatMul]\x1e[ONNX Layer: /encoder/Softmax]",
        **fields,
    )


def head(tactic: str = "sm80_xmma_gemm_f16f16_f16f16_f16_nn_n_tilesize32x32x64") -> dict[str, Any]:
    return layer(
        "/head/MatMul_myl0_1", "gemm", "Half", TacticName=tactic,
        Metadata="[ONNX Layer: /head/MatMul]",
    )  # fmt: skip


NODES = {
    "/encoder/q/MatMul": OnnxNode(op="MatMul", flops=3000),
    "/encoder/Softmax": OnnxNode(op="Softmax"),
    "/head/MatMul": OnnxNode(op="MatMul", flops=1000),
}


def test_a_fused_region_without_inner_types_is_undetermined_with_its_share() -> None:
    values = audit_engine(engine(region(), head(), nodes=NODES), {"name": "fp16"})
    assert values["verdict"] == "undetermined"
    assert "75.0% of the work is in a fused region that shows no inner types" in values["reason"]
    assert values["unknown_share"] == 0.75
    assert [item["share"] for item in values["regions"]] == [0.75]


def test_a_whole_transformer_in_one_silent_region_is_undetermined_and_named() -> None:
    """As 8.6.0 built them on an H200: the region's metadata is empty."""
    nodes = {
        "/bert/q/MatMul": OnnxNode(op="MatMul", flops=1000),
        "/bert/k/MatMul": OnnxNode(op="MatMul", flops=1000),
    }
    engine = parse((DATA / "inspector_8_6_0_encoder_fp16.json").read_text(encoding="utf-8"))
    values = audit_engine(observe(engine, nodes=nodes), {"name": "fp16"}, tf32=True)
    assert values["verdict"] == "undetermined"
    assert "100.0% of the work is in a fused region that shows no inner types" in values["reason"]
    assert "'{ForeignNode[/bert/Cast.../Div]}'" in values["reason"]


def test_what_stands_beside_a_silent_region_proves_nothing_for_it() -> None:
    nodes = {
        "/conv_proj/Conv": OnnxNode(op="Conv", flops=7),
        "/encoder/MatMul": OnnxNode(op="MatMul", flops=993),
    }
    engine = parse((DATA / "inspector_8_6_0_vit_int8.json").read_text(encoding="utf-8"))
    values = audit_engine(observe(engine, nodes=nodes), {"name": "int8"}, tf32=True)
    assert values["verdict"] == "undetermined"
    assert values["compute"] == {"unknown": 0.993, "int8": 0.007}


def test_a_fused_region_of_unknown_size_is_undetermined_without_a_share() -> None:
    values = audit_engine(engine(region(), head()), {"name": "fp16"})
    assert values["verdict"] == "undetermined"
    assert "an unknown share" in values["reason"]
    assert values["unknown_share"] is None


def test_a_small_fused_region_does_not_hide_a_proof_or_a_refutation() -> None:
    nodes = {**NODES, "/head/MatMul": OnnxNode(op="MatMul", flops=97_000)}
    assert verdict(engine(region(), head(), nodes=nodes), "fp16") == "proved"
    wide = head("sm80_xmma_gemm_f32f32_tf32f32_f32_nn_n_tilesize32x32x64")
    assert verdict(engine(region(), wide, nodes=nodes), "fp16") == "refuted"
    # fp32 is claimed of everything: what is not seen is not proved
    exact = head("sm80_xmma_gemm_f32f32_f32f32_f32_nn_n_tilesize32x32x64")
    assert verdict(engine(region(), exact, nodes=nodes), "fp32") == "undetermined"


def test_a_region_that_multiplies_nothing_casts_no_doubt() -> None:
    light = layer(
        "{ForeignNode[/a.../b]}", "Myelin", "Half", Metadata="[ONNX Layer: /encoder/Softmax]"
    )
    nodes = {key: NODES[key] for key in ("/encoder/Softmax", "/head/MatMul")}
    assert verdict(engine(light, head(), nodes=nodes), "fp16") == "proved"


def test_products_that_no_layer_names_are_found_missing() -> None:
    generated = layer(
        "__myl_MulAddMatMul_0xf16f16", "kgen", "Half", Metadata="[ONNX Layer: /encoder/q/MatMul]"
    )
    values = audit_engine(engine(generated, head(), nodes=NODES), {"name": "fp16"})
    assert values["verdict"] == "undetermined"
    assert values["regions"] == [
        {"name": "not found in the engine", "share": 0.75, "nodes": ["/encoder/q/MatMul"]}
    ]


def test_reformats_around_a_region_are_no_regions() -> None:
    copy = layer(
        "Reformatting CopyNode for Input Tensor 0 to {ForeignNode[/a.../b]}", "Reformat", ""
    )
    values = audit_engine(engine(copy, head()), {"name": "fp16"})
    assert values["regions"] == []
    assert values["verdict"] == "proved"


def test_int8_does_not_claim_products_of_two_activations() -> None:
    nodes = {
        "/head/MatMul": OnnxNode(op="MatMul", flops=1000),
        "/attend/MatMul": OnnxNode(op="MatMul", flops=9000, weighted=False),
    }
    quantized = head("sm80_xmma_gemm_i8i8_i8i32_f32_nn_n_tilesize32x32x64")
    attend = layer(
        "/attend/MatMul", "gemm", "Half",
        TacticName="sm80_xmma_gemm_f16f16_f16f32_f32_nn", Metadata="[ONNX Layer: /attend/MatMul]",
    )  # fmt: skip
    observed = engine(quantized, attend, nodes=nodes)
    assert verdict(observed, "int8", op_types=["MatMul"]) == "proved"
    assert verdict(observed, "int8") == "refuted"


def test_free_sizes_beyond_the_batch_fall_back_to_weight_counts() -> None:
    observed = engine(
        layer(
            "/head/MatMul",
            "CaskGemmMatrixMultiply",
            "N/A due to dynamic shapes",
            Weights={"Type": "Half", "Count": 16384},
            Outputs=[{"Name": "b", "Dimensions": [-1, -1, 256]}],
        )
    )
    assert observed.basis == "weights"
    assert [item.flops for item in observed.work] == [2 * 16384]


def test_a_layer_of_unknown_size_in_another_type_keeps_a_claim_open() -> None:
    unsized = layer(
        "/lost/MatMul",
        "gemm",
        "Float",
        TacticName="sm80_xmma_gemm_f32f32_tf32f32_f32_nn",
        Outputs=[{"Name": "b"}],
    )
    observed = engine(head(), unsized)
    assert observed.unweighed == ("/lost/MatMul",)
    assert verdict(observed, "fp16") == "undetermined"
    assert verdict(observed, "fp32") == "refuted"
    assert verdict(engine(head()), "fp16") == "proved"


def test_an_engine_without_details_says_what_to_build() -> None:
    with pytest.raises(StageError, match="profiling_verbosity") as raised:
        parse({"Layers": ["/conv1/Conv", "/fc/Gemm"], "Bindings": []})
    assert "detailed" in raised.value.hint
    with pytest.raises(StageError, match="not JSON"):
        parse("{")


# -- later layouts ---------------------------------------------------------------------------------


def test_a_layer_as_tensorrt_10_lists_it() -> None:
    # NVIDIA/TensorRT issue 4397: no weights, plain type names, ONNX layers without a separator
    observed = engine(
        layer(
            "/encoder/output/MatMul_myl0_7", "gemm", "Half",
            TacticName="sm80_xmma_gemm_f16f16_f16f16_f16_nn_n_tilesize32x32x64_stage6",
            Metadata="[ONNX Layer: /encoder/output/MatMul][ONNX Layer: /encoder/output/Add]",
        )
    )  # fmt: skip
    (work,) = observed.work
    assert isinstance(work, LayerWork)
    assert (work.nodes, work.dtype) == (("/encoder/output/MatMul",), "float16")
    assert work.flops == 2 * 40 * 256 * 64


def test_a_layer_as_tensorrt_11_documents_it() -> None:
    tensor = {"Name": "a", "Dimensions": [1, 40, 64], "Format": "Row major linear"}
    parsed = parse(
        {
            "Layers": [
                {
                    "Name": "/fc/MatMul",
                    "LayerType": "gemm",
                    "Inputs": [{**tensor, "Datatype": "BFloat16"}],
                    "Outputs": [{**tensor, "Name": "b", "Datatype": "BFloat16"}],
                }
            ],
            "I/O Tensors": [{"Name": "input_0", "IOMode": "Input", "DataType": "Float"}],
        }
    )
    assert parsed.io == ("input_0",)
    assert verdict(observe(parsed), "bf16") == "proved"
    assert verdict(observe(parsed), "fp16") == "refuted"


@pytest.mark.parametrize(
    ("text", "dtype"),
    [
        ("Row major linear FP32", "float32"),
        ("Channel major FP16 format where channel % 8 == 0", "float16"),
        ("Thirty-two wide channel vectorized row major Int8 format", "int8"),
        ("Row major linear BFloat16 format", "bfloat16"),
        ("N/A due to dynamic shapes", None),
    ],
)
def test_types_in_format_descriptions(text: str, dtype: str | None) -> None:
    assert type_in(text) == dtype


@pytest.mark.parametrize(
    ("tactic", "dtype"),
    [
        ("sm80_xmma_fprop_wngd_f32f32_f32_f32_nchwkcrs_nchw_tilesize8x16x16x8", "float32"),
        ("sm90_xmma_fprop_implicit_gemm_f32f32_tf32f32_f32_nhwckrsc_nhwc", "tf32"),
        ("sm80_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x64x32", "bfloat16"),
        ("ampere_scudnn_128x64_relu_xregs_large_nn_v1", "float32"),
        ("trt_turing_cutlass_image_network_first_layer_hmma_fprop_f16f16f32_nhwc_nhwc", "float16"),
        ("ampere_h16816gemm_256x128_ldg8_nn_v1", "float16"),
        ("__myl_AddCastMul_0xf2543c36ff16f16b", None),
        ("_gemm_mha_v2_0xe7bf16aa", None),
        ("", None),
    ],
)
def test_types_in_tactic_names(tactic: str, dtype: str | None) -> None:
    assert multiplies_in(tactic) == dtype


# -- the ONNX model behind it ----------------------------------------------------------------------


def test_onnx_nodes_carry_flops_at_the_audited_shapes() -> None:
    weight = helper.make_tensor("w", TensorProto.FLOAT, [8, 3, 3, 3], [0.0] * 216)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["c"], name="conv", pads=[1, 1, 1, 1]),
            helper.make_node("Transpose", ["c"], ["t"], name="turn", perm=[0, 1, 3, 2]),
            helper.make_node("MatMul", ["c", "t"], ["y"], name="attend"),
            helper.make_node("MatMul", ["w", "w"], ["f"], name="folded"),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 8, 16, 16])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    nodes = onnx_nodes(model, {"x": [4, 3, 16, 16]})
    assert nodes["conv"] == OnnxNode(op="Conv", flops=2 * 4 * 8 * 256 * 27, weighted=True)
    assert nodes["attend"] == OnnxNode(op="MatMul", flops=2 * 4 * 8 * 256 * 16, weighted=False)
    assert nodes["turn"].flops == 0
    assert nodes["folded"].flops == 0
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    with pytest.raises(StageError, match="input 'x'"):
        onnx_nodes(model, {})


def test_nodes_that_cannot_be_counted_are_not_lost() -> None:
    def value(name: str, *dims: int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, list(dims))

    product = helper.make_node("MatMul", ["x", "x"], ["inner"], name="inside")
    body = helper.make_graph([product], "body", [], [value("inner", 4, 4)])
    graph = helper.make_graph(
        [
            helper.make_node("Einsum", ["x", "x"], ["e"], name="twin", equation="ij,jk->ik"),
            helper.make_node("MatMul", ["e", "x"], ["m"], name="twin"),
            helper.make_node("MatMul", ["m", "x"], ["n"]),
            helper.make_node("If", ["c"], ["y"], name="branch", then_branch=body, else_branch=body),
        ],
        "g",
        [value("x", 4, 4), helper.make_tensor_value_info("c", TensorProto.BOOL, [])],
        [value("n", 4, 4), value("y", 4, 4)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    nodes = onnx_nodes(model, {"x": [4, 4], "c": []})
    assert {name: node.flops for name, node in nodes.items()} == {
        "twin": None,
        "twin (2)": 128,
        "node_of_n": 128,
        "branch": 0,
        "inside": None,
        "inside (2)": None,
    }


def test_a_product_of_unknown_size_is_not_taken_for_nothing() -> None:
    nodes = {**NODES, "/encoder/q/MatMul": OnnxNode(op="MatMul", flops=None)}
    values = audit_engine(engine(region(), head(), nodes=nodes), {"name": "fp16"})
    assert values["verdict"] == "undetermined"
    assert values["unknown_share"] is None
