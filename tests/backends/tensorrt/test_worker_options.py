"""What worker.py sets for options and precisions; test_contract.py has the versions."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.backends.tensorrt import worker
from orchestrator.backends.tensorrt.options import request
from orchestrator.backends.tensorrt.worker import Step
from orchestrator.config.tensorrt import IO_LAYOUTS, IO_TYPES, TensorRTOptions


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({}, []),
        ({"workspace_mib": None, "refit": "none"}, []),
        ({"workspace_mib": 1.5}, [Step("workspace_mib", "pool", "WORKSPACE", 3 << 19)]),
        (
            {"pools": {"tactic_dram": 2}},
            [Step("pools.tactic_dram", "pool", "TACTIC_DRAM", 2 << 20)],
        ),
        (
            {"tactic_sources": ["+JIT_CONVOLUTIONS", "-cublas", "CUDNN"]},
            [
                Step("tactic_sources", "tactic", "JIT_CONVOLUTIONS", True),
                Step("tactic_sources", "tactic", "CUBLAS", False),
                Step("tactic_sources", "tactic", "CUDNN", True),
            ],
        ),
        ({"refit": "individual"}, [Step("refit", "flag", "REFIT_INDIVIDUAL", True)]),
        ({"sparsity": "enable"}, [Step("sparsity", "flag", "SPARSE_WEIGHTS", True)]),
        ({"gpu_fallback": False}, [Step("gpu_fallback", "flag", "GPU_FALLBACK", False)]),
        ({"max_tactics": -1}, [Step("max_tactics", "property", "max_num_tactics", -1)]),
        (
            {"hardware_compatibility": "ampere_plus"},
            [
                Step(
                    "hardware_compatibility",
                    "property",
                    "hardware_compatibility_level",
                    "HardwareCompatibilityLevel.AMPERE_PLUS",
                )
            ],
        ),
        (
            {"native_instancenorm": True, "parser_flags": {"ADJUST_FOR_DLA": False}},
            [
                Step("native_instancenorm", "parser_flag", "NATIVE_INSTANCENORM", True),
                Step("parser_flags.ADJUST_FOR_DLA", "parser_flag", "ADJUST_FOR_DLA", False),
            ],
        ),
        (
            {"builder_flags": {"DEBUG": True}, "builder_properties": {"max_aux_streams": 2}},
            [
                Step("builder_flags.DEBUG", "flag", "DEBUG", True),
                Step("builder_properties.max_aux_streams", "property", "max_aux_streams", 2),
            ],
        ),
        ({"dla_core": 1}, [Step("dla_core", "dla", "", 1)]),
        ({"max_threads": 4}, [Step("max_threads", "builder", "max_threads", 4)]),
        ({"mix_with": ["fp16"]}, [Step("mix_with", "flag", "FP16", True)]),
        (
            {"input_formats": {"x": "fp16:chw16+hwc8"}, "output_formats": {"y": "chw"}},
            [
                Step("input_formats", "input", "x", "fp16:chw16+hwc8"),
                Step("output_formats", "output", "y", "chw"),
            ],
        ),
        (
            {"layer_output_types": {"a": ["fp16", "int32"]}, "precision_constraints": "prefer"},
            [
                Step("layer_output_types", "output_type", "a", ["fp16", "int32"]),
                Step("layer_output_types", "flag", "PREFER_PRECISION_CONSTRAINTS", True),
            ],
        ),
        (
            {"layer_precisions": {"a": "fp16", "b*": "fp32"}},
            [
                Step("layer_precisions", "precision", "a", "fp16"),
                Step("layer_precisions", "precision", "b*", "fp32"),
                Step("layer_precisions", "flag", "OBEY_PRECISION_CONSTRAINTS", True),
                Step("layer_precisions", "flag", "TF32", False),
            ],
        ),
        (
            {"mark_debug": ["t"], "mark_unfused_debug": True, "decomposable_attentions": ["*"]},
            [
                Step("mark_debug", "debug", "t", True),
                Step("mark_unfused_debug", "unfused", "", True),
                Step("decomposable_attentions", "decompose", "*", True),
            ],
        ),
        ({"layer_device_types": {"a": "DLA"}}, [Step("layer_device_types", "device", "a", "DLA")]),
        (
            {"plugins_to_serialize": ["x.so"], "ignore_parsed_plugin_libs": True},
            [],
        ),
    ],
)
def test_options_become_steps(options: dict[str, Any], steps: list[Step]) -> None:
    assert worker.option_steps(options) == steps


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"workspace": 1}, "bug", "no option 'workspace'"),
        ({"refit": "always"}, "refused", "refit=always is not one of none, refit, identical"),
        ({"strict_nans": "maybe"}, "refused", "strict_nans='maybe' is neither true nor false"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], kind: str, message: str) -> None:
    with pytest.raises(worker.Failure, match=message) as caught:
        worker.option_steps(options)
    assert caught.value.kind == kind


def test_the_worker_knows_every_option_of_the_configuration() -> None:
    assert worker.option_steps(request(TensorRTOptions())), "the profiling verbosity is set"


@pytest.mark.parametrize(
    ("text", "kind", "layouts"),
    [
        ("chw", None, ["LINEAR"]),
        ("fp16:chw16+hwc8", "HALF", ["CHW16", "HWC8"]),
        ("int8:chw32", "INT8", ["CHW32"]),
    ],
)
def test_formats_name_a_type_and_layouts(text: str, kind: str | None, layouts: list[str]) -> None:
    assert worker.io_format(text) == (kind, layouts)


def test_the_configuration_and_the_worker_share_their_words() -> None:
    assert set(worker.TYPE_WORDS) == set(IO_TYPES)
    assert set(worker.LAYOUT_WORDS) == set(IO_LAYOUTS)


def test_a_precision_sets_flags_tf32_and_obedience() -> None:
    precision = {"mode": "weak", "flags": ["FP16", "INT8"], "tf32": False, "keep_layers": ["a"]}
    assert [(step.name, step.value) for step in worker.precision_steps(precision)] == [
        ("FP16", True),
        ("INT8", True),
        ("TF32", False),
        ("OBEY_PRECISION_CONSTRAINTS", True),
    ]
    assert worker.precision_steps({"mode": "strong"}) == [], "TensorRT's default is left alone"


@pytest.mark.parametrize(
    ("name", "version", "message"),
    [
        (
            "IBuilderConfig.max_num_tactics",
            "8.6.0",
            "IBuilderConfig.max_num_tactics appeared in TensorRT 10.4; this is 8.6.0",
        ),
        (
            "BuilderFlag.FP16",
            "11.4.0.106",
            "BuilderFlag.FP16 was removed in TensorRT 11.0; this is 11.4.0.106",
        ),
        (
            "BuilderFlag.SPARSE_WEIGHT",
            "10.0.1",
            "TensorRT 10.0.1 has no BuilderFlag.SPARSE_WEIGHT. did you mean 'SPARSE_WEIGHTS'?",
        ),
    ],
)
def test_what_a_version_lacks_is_named(name: str, version: str, message: str) -> None:
    assert worker.lacking(name, version, ["SPARSE_WEIGHTS", "TF32"]) == message


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("8.6.1", (8, 6, 1)), ("10.14.1.48.post1", (10, 14, 1, 48)), ("11.4.0rc1", (11, 4))],
)
def test_versions_are_their_leading_integers(text: str, numbers: tuple[int, ...]) -> None:
    assert worker.parse_version(text) == numbers
