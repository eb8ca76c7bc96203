"""Build options: what a version lacks is refused, and the trtexec line speaks its major's flags."""

from __future__ import annotations

import shlex
from typing import Any

import pytest
from pydantic import ValidationError

from orchestrator.backends.tensorrt.options import NEEDS, TensorRTOptions, check, request
from orchestrator.backends.tensorrt.trtexec import trtexec_line
from orchestrator.backends.tensorrt.versions import lowering, parse_version, since
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
    ],
)
def test_values_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TensorRTOptions(**options)


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


def test_calibration_without_a_table_is_not_pretended() -> None:
    found = lowering("int8", V86, "entropy2")
    assert "calibration data" in trtexec_line(TensorRTOptions(), [], found, V86)
    text = trtexec_line(TensorRTOptions(), [], found, V86, calibration_cache="c.table")
    assert "--calib=c.table" in flags(text)


def test_native_instance_norm_flips_its_default_at_10() -> None:
    assert "--pluginInstanceNorm" in flags(line(V1016, native_instancenorm=False))
    assert "native_instancenorm=true" in line(V86, native_instancenorm=True)
    assert "no flag" not in line(V1016, native_instancenorm=True)
