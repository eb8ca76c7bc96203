"""Build options: what a version lacks is refused, and the trtexec line speaks its major's flags."""

from __future__ import annotations

import shlex
from typing import Any

import pytest
from pydantic import ValidationError

from orchestrator.backends.tensorrt.options import NEEDS, check, kept_nodes, request, tf32
from orchestrator.backends.tensorrt.trtexec import trtexec_line
from orchestrator.backends.tensorrt.versions import lowering, parse_version, since
from orchestrator.config.tensorrt import TensorRTOptions
from orchestrator.errors import PlanError

V86, V101, V1016, V111 = (parse_version(v) for v in ("8.6.0", "10.1.0", "10.16.1.11", "11.1.0"))
PROFILE = {"x": {"min": [1, 3, 64, 64], "opt": [8, 3, 64, 64], "max": [16, 3, 64, 64]}}


def line(version: Any, precision: str = "fp16", profiles: Any = (PROFILE,), **options: Any) -> str:
    chosen = TensorRTOptions(**options)
    check(chosen, version)
    return trtexec_line(chosen, list(profiles), lowering(precision, version), version)


def flags(text: str) -> list[str]:
    return shlex.split(text, comments=True)


@pytest.mark.parametrize("version", [V86, V101, V1016, V111], ids=str)
def test_defaults_suit_every_version(version: Any) -> None:
    check(TensorRTOptions(), version)
    assert request(TensorRTOptions())["profiling_verbosity"] == "detailed"


def test_every_option_names_something_tensorrt_had() -> None:
    assert set(NEEDS) <= set(TensorRTOptions.model_fields)
    assert all(since(name) for name in NEEDS.values())


@pytest.mark.parametrize(
    ("options", "version", "message"),
    [
        ({"max_tactics": 4}, V86, "max_num_tactics needs TensorRT >= 10.4; trt86 has 8.6.0"),
        ({"strip_weights": True}, V86, "STRIP_PLAN needs TensorRT >= 10.0"),
        ({"refit": "individual"}, V101, "REFIT_INDIVIDUAL needs TensorRT >= 10.2"),
        ({"strict_nans": True}, V101, "STRICT_NANS needs TensorRT >= 10.6"),
        ({"tiling_level": "fast"}, V101, "tiling_optimization_level needs TensorRT >= 10.8"),
        ({"build_route": "a=b"}, V1016, "build_route needs TensorRT >= 11.1"),
        ({"pools": {"TACTIC_SHARED_MEMORY": 1}}, V86, "TACTIC_SHARED_MEMORY needs TensorRT >= 10"),
        ({"tactic_sources": ["-CUDNN"]}, V111, "TacticSource.CUDNN needs TensorRT < 11.0"),
        (
            {"hardware_compatibility": "same_compute_capability"},
            V101,
            "SAME_COMPUTE_CAPABILITY needs TensorRT >= 10.9",
        ),
        ({"preview_features": {"FASTER_DYNAMIC_SHAPES_0805": True}}, V101, "removed in 10.0"),
        ({"parser_flags": {"ENABLE_PLUGIN_OVERRIDE": True}}, V101, ">= 10.15"),
        ({"builder_flags": {"MONITOR_MEMORY": True}}, V101, ">= 10.6"),
        ({"builder_properties": {"remote_auto_tuning_config": "x"}}, V101, ">= 10.13"),
        ({"mark_debug": ["y"]}, V86, "mark_debug needs TensorRT >= 10.0"),
        ({"mark_unfused_debug": True}, V101, "debug_tensors needs TensorRT >= 10.12"),
        ({"decomposable_attentions": ["a"]}, V101, "decomposable needs TensorRT >= 10.14"),
        ({"layer_precisions": {"a": "fp16"}}, V111, "ILayer.precision needs TensorRT < 11.0"),
        ({"layer_output_types": {"a": "fp16"}}, V111, "set_output_type needs TensorRT < 11.0"),
        ({"layer_precisions": {"a": "bf16"}}, V86, "DataType.BF16 needs TensorRT >= 10.0"),
        ({"mix_with": ["bf16"]}, V86, "BuilderFlag.BF16 needs TensorRT >= 10.0"),
        ({"mix_with": ["fp16"]}, V111, "BuilderFlag.FP16 needs TensorRT < 11.0"),
        ({"input_formats": {"x": "int64:chw"}}, V86, "DataType.INT64 needs TensorRT >= 10.0"),
    ],
)
def test_what_the_version_lacks_is_refused(
    options: dict[str, Any], version: Any, message: str
) -> None:
    with pytest.raises(PlanError) as raised:
        check(TensorRTOptions(**options), version, "trt86")
    assert message in raised.value.message
    assert raised.value.where.startswith(f"target.{next(iter(options))}")


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        ({"builder_flags": {"FP16": True}}, "use precision="),
        ({"builder_flags": {"REFIT": True}}, "use target.refit"),
        ({"builder_properties": {"avg_timing_iterations": 3}}, "use target.avg_timing"),
        ({"builder_properties": {"int8_calibrator": "x"}}, "leave it out"),
        ({"parser_flags": {"NATIVE_INSTANCENORM": True}}, "use target.native_instancenorm"),
        ({"pools": {"WORKSPACE": 64}}, "use target.workspace_mib"),
        ({"tactic_sources": ["+CUDNN", "-CUDNN"]}, "keep one"),
        ({"exclude_lean_runtime": True}, "version_compatible=true"),
        ({"gpu_fallback": True}, "set target.dla_core"),
        ({"version_compatible": True, "native_instancenorm": False}, "leave target.native"),
        ({"builder_flags": {"DISABLE_TIMING_CASH": True}}, "did you mean 'DISABLE_TIMING_CACHE'"),
        ({"builder_flags": {"OBEY_PRECISION_CONSTRAINTS": True}}, "use target.precision_constr"),
        ({"builder_properties": {"plugins_to_serialize": "x"}}, "use target.plugins_to_serialize"),
        ({"precision_constraints": "prefer"}, "set target.layer_precisions"),
        ({"layer_device_types": {"a": "GPU"}}, "set target.dla_core"),
        ({"ignore_parsed_plugin_libs": True}, "version_compatible=true"),
        ({"plugins_to_serialize": ["a.so"]}, "version_compatible=true"),
        ({"version_compatible": True, "plugins_to_serialize": ["a.so"]}, "add it there"),
    ],
)
def test_contradictions_and_second_ways_are_refused(options: dict[str, Any], hint: str) -> None:
    with pytest.raises(PlanError) as raised:
        check(TensorRTOptions(**options), V86)
    assert hint in raised.value.hint


@pytest.mark.parametrize(
    "options",
    [
        {"optimization_level": 6},
        {"workspace_mb": 1},
        {"tactic_sources": ["CUDNN"]},
        {"pools": {"workspace": 1}},
        {"input_formats": {"x": "fp64:chw"}},
        {"input_formats": {"x": "fp16"}},
        {"output_formats": {"x": "fp16:chw+chw5"}},
        {"input_formats": {"x": ""}},
        {"layer_precisions": {"x": "fp8"}},
        {"layer_device_types": {"x": "gpu"}},
        {"mix_with": ["int8"]},
    ],
)
def test_values_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TensorRTOptions(**options)


@pytest.mark.parametrize("text", ["chw", "fp16:chw16", "int8:chw4+chw32", "hwc8+chw"])
def test_formats_follow_trtexecs_grammar(text: str) -> None:
    assert TensorRTOptions(input_formats={"x": text}).input_formats["x"] == text


@pytest.mark.parametrize(
    ("options", "precision", "where", "hint"),
    [
        ({"layer_precisions": {"a": "fp16"}}, "fp32", "layer_precisions.a", "precision=fp16"),
        ({"layer_precisions": {"a": "fp16"}}, "int8", "layer_precisions.a", "mix_with=[fp16]"),
        ({"layer_output_types": {"a": ["int8"]}}, "fp16", "layer_output_types.a", "precision=int8"),
        ({"mix_with": ["fp16"]}, "tf32", "mix_with", "use precision=fp16"),
        ({"layer_precisions": {"a": "fp32"}}, "tf32", "layer_precisions", "use precision=fp32"),
        ({"dla_core": 0}, "fp32", "dla_core", "use precision=fp16"),
    ],
)
def test_types_that_the_precision_does_not_use_are_refused(
    options: dict[str, Any], precision: str, where: str, hint: str
) -> None:
    with pytest.raises(PlanError) as raised:
        check(TensorRTOptions(**options), V86, lowering=lowering(precision, V86))
    assert raised.value.where == f"target.{where}"
    assert hint in raised.value.hint


def test_types_that_the_precision_uses_are_taken() -> None:
    options = TensorRTOptions(
        mix_with=["fp16"],
        layer_precisions={"a": "fp16", "b": "int8", "c": "fp32"},
        layer_output_types={"a": ["fp16", "int32"]},
        precision_constraints="prefer",
    )
    check(options, V86, lowering=lowering("int8", V86))
    with pytest.raises(PlanError, match="obeyed"):
        check(options, V86, lowering=lowering("int8", V86, "entropy2", kept=True))


@pytest.mark.parametrize(
    "options", [{"layer_precisions": {"a": "fp32"}}, {"mix_with": ["fp16"]}], ids=str
)
def test_types_of_a_typed_network_are_the_models(options: dict[str, Any]) -> None:
    with pytest.raises(PlanError, match=r"strongly typed for TensorRT 10\.16.* the model's"):
        check(TensorRTOptions(**options), V1016, lowering=lowering("int8", V1016))
    check(TensorRTOptions(**options), V1016, lowering=lowering("int8", V1016, "minmax"))


def test_layers_in_fp32_are_known_to_the_audit() -> None:
    options = TensorRTOptions(layer_precisions={"/a/*": "fp32", "/a/Conv": "fp16", "b": "fp32"})
    nodes = ["/a/Conv", "/a/MatMul", "b", "bb"]
    assert kept_nodes(options, nodes) == ["/a/MatMul", "b"]
    found = lowering("fp16", V86)
    assert found.tf32
    assert not tf32(options, found)
    assert tf32(TensorRTOptions(layer_precisions={"a": "fp16"}), found)


def test_plugins_travel_by_file_name() -> None:
    options = TensorRTOptions(version_compatible=True, plugins_to_serialize=["/opt/a/libx.so"])
    check(options, V86, plugins=["/opt/a/libx.so", "/opt/liby.so"])
    assert request(options)["plugins_to_serialize"] == ["libx.so"]


@pytest.mark.parametrize(
    ("carried", "plugins", "message"),
    [
        (["/opt/libx.so"], ["/opt/a/libx.so"], "did you mean '/opt/a/libx.so'"),
        (["/a/x.so", "/a/x.so"], ["/a/x.so"], "is there twice"),
        ([], ["/a/x.so", "/b/x.so"], "two plugin libraries are named 'x.so'"),
    ],
)
def test_plugin_libraries_are_told_apart(
    carried: list[str], plugins: list[str], message: str
) -> None:
    options = TensorRTOptions(version_compatible=True, plugins_to_serialize=carried)
    with pytest.raises(PlanError) as raised:
        check(options, V86, plugins=plugins)
    assert message in raised.value.render()


# -- trtexec ---------------------------------------------------------------------------------------


def test_the_plainest_line() -> None:
    assert line(V86, "fp32") == (
        "trtexec --onnx=model.onnx --saveEngine=model.plan --skipInference --noTF32 "
        "--minShapes=x:1x3x64x64 --optShapes=x:8x3x64x64 --maxShapes=x:16x3x64x64 "
        "--avgTiming=1 --profilingVerbosity=detailed"
    )


def test_precision_is_said_in_each_majors_way() -> None:
    assert "--fp16" in flags(line(V86))
    assert "--stronglyTyped" not in flags(line(V86))
    assert "--stronglyTyped" in flags(line(V1016))
    assert not {"--fp16", "--stronglyTyped", "--noTF32"} & set(flags(line(V111)))
    assert "--noTF32" in flags(line(V111, "fp32"))
    assert "--noTF32" not in flags(line(V111, "tf32"))


def test_several_profiles_are_numbered_where_trtexec_can() -> None:
    other = {"x": {"min": [32, 3, 64, 64], "opt": [32, 3, 64, 64], "max": [64, 3, 64, 64]}}
    words = flags(line(V1016, profiles=(PROFILE, other)))
    at = words.index("--profile=1")
    assert words[at + 1] == "--minShapes=x:32x3x64x64"
    old = line(V86, profiles=(PROFILE, other))
    assert "--profile" not in old
    assert old.endswith("# no flag for: profiles 1 to 1")


def test_options_become_flags() -> None:
    words = flags(
        line(
            V1016,
            workspace_mib=512,
            pools={"TACTIC_SHARED_MEMORY": 0.5, "DLA_LOCAL_DRAM": 64},
            optimization_level=5,
            avg_timing=4,
            tactic_sources=["-CUDNN", "+JIT_CONVOLUTIONS"],
            sparsity=True,
            refit="refit",
            strip_weights=True,
            hardware_compatibility="ampere_plus",
            tiling_level="moderate",
            l2_limit_tiling=1024,
            preview_features={"RUNTIME_ACTIVATION_RESIZE_10_10": True},
            builder_flags={"ERROR_ON_TIMING_CACHE_MISS": True},
        )
    )
    assert {
        "--memPoolSize=workspace:512,tacticSharedMem:0.5,dlaLocalDRAM:64",
        "--builderOptimizationLevel=5", "--avgTiming=4",
        "--tacticSources=-CUDNN,+JIT_CONVOLUTIONS", "--sparsity=enable", "--refit",
        "--stripWeights", "--hardwareCompatibilityLevel=ampere+", "--tilingOptimizationLevel=2",
        "--l2LimitForTiling=1024", "--preview=+runtimeActivationResize",
        "--errorOnTimingCacheMiss",
    } <= set(words)  # fmt: skip


def test_what_trtexec_cannot_say_is_named() -> None:
    text = line(V1016, strict_nans=True, refit="individual", builder_flags={"DEBUG": True})
    lacking = text.partition("  # no flag for: ")[2]
    assert lacking == "refit=individual; builder_flags.DEBUG=true; strict_nans"


def test_identical_refit_is_what_strip_weights_alone_means() -> None:
    text = line(V1016, refit="identical", strip_weights=True)
    assert "--stripWeights" in flags(text)
    assert "--refit" not in text
    assert "no flag" not in text


def test_kept_nodes_are_layer_precisions_and_quoted_for_the_shell() -> None:
    text = trtexec_line(
        TensorRTOptions(),
        [],
        lowering("fp16", V86, kept=True),
        V86,
        onnx="my model.onnx",
        keep_nodes=["/a/Conv", "b:0"],
        keep_op_types=["Softmax"],
        plugins=["libx.so"],
        timing_cache="t.cache",
    )
    assert {
        "--onnx=my model.onnx",
        "--precisionConstraints=obey",
        "--layerPrecisions=/a/Conv:fp32,'b:0':fp32",
        "--staticPlugins=libx.so",
        "--timingCacheFile=t.cache",
    } <= set(flags(text))
    assert text.endswith("# no flag for: fp32 for Softmax")


def test_types_of_layers_are_constraints() -> None:
    options = TensorRTOptions(
        mix_with=["fp16"],
        layer_precisions={"a": "fp16", "b/*": "fp32"},
        layer_output_types={"a": ["fp16", "int32"], "c:0": "fp32"},
        precision_constraints="prefer",
    )
    weak = lowering("int8", V1016, "entropy2")
    words = flags(trtexec_line(options, [], weak, V1016, calibration_cache="t"))
    assert {
        "--int8", "--fp16", "--noTF32", "--precisionConstraints=prefer",
        "--layerPrecisions=a:fp16,b/*:fp32", "--layerOutputTypes=a:fp16+int32,'c:0':fp32",
    } <= set(words)  # fmt: skip
    old = trtexec_line(options, [], lowering("int8", V86), V86)
    assert "--layerPrecisions=a:fp16 " in old
    assert old.endswith("# no flag for: layer_precisions.b/*=fp32")
    every = TensorRTOptions(layer_precisions={"*": "fp32"})
    assert "--layerPrecisions=*:fp32" in flags(trtexec_line(every, [], lowering("int8", V86), V86))


def test_formats_are_said_for_every_port_in_order() -> None:
    options = TensorRTOptions(input_formats={"b": "fp16:chw16+chw32"}, output_formats={"y": "hwc8"})
    ports: dict[str, Any] = {
        "inputs": {"a": "int32", "b": "float32", "c": "float32"},
        "outputs": {"y": "float16"},
    }
    expected = {
        V86: ("int32:chw,fp16:chw16+chw32,fp32:chw", "fp16:hwc8"),
        V111: ("chw,chw16+chw32,chw", "hwc8"),
    }
    for version, (inputs, outputs) in expected.items():
        words = flags(trtexec_line(options, [], lowering("fp16", version), version, **ports))
        assert {f"--inputIOFormats={inputs}", f"--outputIOFormats={outputs}"} <= set(words)
    unknown = trtexec_line(options, [], lowering("fp16", V86), V86)
    assert unknown.endswith("# no flag for: input_formats; output_formats")
    ports["inputs"]["a"] = "int64"
    assert "no flag for: input_formats" in trtexec_line(
        options, [], lowering("fp16", V86), V86, **ports
    )


def test_debugging_plugins_and_devices() -> None:
    options = TensorRTOptions(
        mark_debug=["t", "u"],
        mark_unfused_debug=True,
        decomposable_attentions=["a:0"],
        version_compatible=True,
        plugins_to_serialize=["/opt/libx.so"],
        ignore_parsed_plugin_libs=True,
        dla_core=0,
        layer_device_types={"a": "GPU", "*": "DLA"},
        max_threads=4,
    )
    text = trtexec_line(options, [], lowering("fp16", V1016), V1016, plugins=["libx.so", "liby.so"])
    assert {
        "--markDebug=t,u", "--markUnfusedTensorsAsDebugTensors", "--decomposableAttentions='a:0'",
        "--dynamicPlugins=libx.so", "--setPluginsToSerialize=libx.so", "--staticPlugins=liby.so",
        "--ignoreParsedPluginLibs", "--useDLACore=0", "--layerDeviceTypes=a:GPU,*:DLA",
    } <= set(flags(text))  # fmt: skip
    assert text.partition("  # no flag for: ")[2] == (
        "max_threads=4; a DLA without PREFER_PRECISION_CONSTRAINTS, which --useDLACore sets"
    )


def test_calibration_without_a_table_is_not_pretended() -> None:
    found = lowering("int8", V86, "entropy2")
    assert "calibration data" in trtexec_line(TensorRTOptions(), [], found, V86)
    text = trtexec_line(TensorRTOptions(), [], found, V86, calibration_cache="c.table")
    assert "--calib=c.table" in flags(text)


def test_native_instance_norm_flips_its_default_at_10() -> None:
    assert "--pluginInstanceNorm" in flags(line(V1016, native_instancenorm=False))
    assert "native_instancenorm=true" in line(V86, native_instancenorm=True)
    assert "no flag" not in line(V1016, native_instancenorm=True)
