"""worker.py against the real Python bindings of four TensorRT versions, and four of CUDA.

The bindings are imported over stub libraries, each version in a child process: names, enums and
signatures are real, nothing is built. Downloads are kept in pytest's cache.
"""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from orchestrator.backends.tensorrt import worker
from tests.backends.tensorrt.stubs import bindings, uses

TENSORRT = (
    "tensorrt_bindings==8.6.1",
    "tensorrt_cu12_bindings==10.0.1",
    "tensorrt_cu12_bindings==10.16.1.11",
    "tensorrt_cu12_bindings==11.4.0.106",
)
CUDA = (
    ("cuda-python==11.8.3",),
    ("cuda-python==12.2.0",),
    ("cuda-bindings==12.9.1",),
    ("cuda-bindings==13.5.0", "cuda-pathfinder==1.8.3"),
)
#: Attributes that TensorRT's objects have too, on receivers that are none of them.
OTHERS = {
    "add", "builder", "clear", "close", "dtype", "engine", "flags", "get", "inputs", "kernel",
    "log", "logger", "name", "names", "nbytes", "node", "path", "reset", "run", "shape",
    "shapes", "type", "update", "version",
}  # fmt: skip
OPTIONS: dict[str, Any] = {
    "workspace_mib": 64,
    "pools": {"tactic_dram": 128},
    "optimization_level": 5,
    "avg_timing": 4,
    "max_aux_streams": 0,
    "max_tactics": 10,
    "max_threads": 2,
    "input_formats": {"x": "fp16:chw2+hwc16"},
    "output_formats": {"y": "int64:chw"},
    "mix_with": ["fp16"],
    "layer_precisions": {"conv1": "bf16"},
    "layer_output_types": {"conv1": ["fp16", "int32"]},
    "layer_device_types": {"conv1": "DLA"},
    "mark_debug": ["y"],
    "mark_unfused_debug": True,
    "decomposable_attentions": ["attention"],
    "plugins_to_serialize": ["libplugin.so"],
    "ignore_parsed_plugin_libs": True,
    "tactic_sources": ["+JIT_CONVOLUTIONS", "-CUBLAS"],
    "preview_features": {"ALIASED_PLUGIN_IO_10_03": True},
    "sparsity": True,
    "refit": "refit",
    "strip_weights": True,
    "version_compatible": True,
    "exclude_lean_runtime": True,
    "hardware_compatibility": "same_compute_capability",
    "profiling_verbosity": "detailed",
    "native_instancenorm": True,
    "tiling_level": "fast",
    "l2_limit_tiling": 1 << 20,
    "weight_streaming": True,
    "runtime_platform": "windows_amd64",
    "dla_core": 0,
    "gpu_fallback": True,
    "direct_io": True,
    "strict_nans": True,
    "build_route": "default",
    "parser_flags": {"ENABLE_PLUGIN_OVERRIDE": True},
    "builder_flags": {"DISABLE_TIMING_CACHE": True},
    "builder_properties": {"engine_capability": "EngineCapability.STANDARD"},
}
#: First version with the option, where that is later than 8.6.
NEEDS = {
    "max_tactics": "10.4",
    "preview_features": "10.3",
    "strip_weights": "10.0",
    "hardware_compatibility": "10.9",
    "tiling_level": "10.8",
    "l2_limit_tiling": "10.8",
    "weight_streaming": "10.0",
    "runtime_platform": "10.2",
    "strict_nans": "10.6",
    "build_route": "11.1",
    "parser_flags": "10.15",
    "output_formats": "10.0",
    "layer_precisions": "10.0",
    "mark_debug": "10.0",
    "mark_unfused_debug": "10.12",
    "decomposable_attentions": "10.14",
}
#: First version without the option.
GONE = {"mix_with": "11.0", "layer_precisions": "11.0", "layer_output_types": "11.0"}
#: Read-only since 11.0, where all networks are strongly typed; the worker sets it in weak ones.
READ_ONLY = {"ITensor.dtype": (11,)}
PRECISIONS: dict[str, Any] = {
    "fp32": {"mode": "weak", "flags": [], "tf32": False},
    "fp16": {"mode": "weak", "flags": ["FP16"], "tf32": True},
    "bf16": {"mode": "weak", "flags": ["BF16"]},
    "typed": {"mode": "strong", "flags": [], "tf32": True},
}

Report = dict[str, Any]


@pytest.fixture(scope="module")
def downloads(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    cache: pytest.Cache | None = getattr(request.config, "cache", None)  # -p no:cacheprovider
    if cache is None:
        return tmp_path_factory.mktemp("tensorrt-bindings")
    return Path(cache.mkdir("tensorrt-bindings"))


@pytest.fixture(scope="module", params=TENSORRT)
def tensorrt(request: pytest.FixtureRequest, downloads: Path) -> bindings.Bindings:
    return bindings.tensorrt(downloads, request.param)


@pytest.fixture(scope="module")
def report(tensorrt: bindings.Bindings) -> Report:
    names = uses.table_names() | {use.name for use in uses.tensorrt_uses()}
    return tensorrt.report(
        {
            "names": sorted(names),
            "classes": sorted(uses.OBJECTS.values()),
            "options": OPTIONS,
            "precisions": PRECISIONS,
        }
    )


def available(name: str, version: str) -> bool:
    """Return whether worker.py believes that *version* has *name*."""
    owner = name.rpartition(".")[0]
    if owner and not available(owner, version):
        return False
    first, gone = worker.AVAILABLE.get(name, ("", ""))
    here = worker.parse_version(version)
    return here >= worker.parse_version(first or "0") and not (
        gone and here >= worker.parse_version(gone)
    )


def test_the_syntax_tree_is_read() -> None:
    found = {use.name for use in uses.tensorrt_uses()}
    assert {
        "Builder",
        "Builder.build_serialized_network",
        "EngineInspector.get_engine_information",
        "IBuilderConfig.set_timing_cache",
        "IExecutionContext.execute_async_v3",
        "ILayer.set_output_type",
        "OnnxParserRefitter.refit_from_file",
        "SerializationFlag.EXCLUDE_WEIGHTS",
        "INetworkDefinition.mark_debug",
    } <= found
    assert "ICudaEngine.capture" not in found, "the worker's own Engine was taken for TensorRT's"


@pytest.mark.slow
def test_names(report: Report) -> None:
    wrong = [
        f"{name}: {'there' if info['exists'] else 'not there'}, expected otherwise"
        for name, info in report["names"].items()
        if info["exists"] != available(name, report["version"])
    ]
    assert not wrong


@pytest.mark.slow
def test_signatures(report: Report) -> None:
    calls = [use for use in uses.tensorrt_uses() if use.arguments is not None]
    assert len(calls) > 50
    wrong = []
    for use in calls:
        info = report["names"][use.name]
        if info["exists"] and not any(accepts(found, use) for found in info["overloads"]):
            wrong.append(f"line {use.line}: {use.name}: {use} does not fit {info['overloads']}")
    assert not wrong


def accepts(parameters: list[str], use: uses.Use) -> bool:
    """Return whether a call fits pybind11's *parameters* (``name: type[ = default]``)."""
    names = [parameter.partition(":")[0] for parameter in parameters]
    needed = [name for name, text in zip(names, parameters, strict=True) if " = " not in text]
    given = names[: use.arguments] + list(use.keywords)
    return (
        (use.arguments or 0) <= len(names)
        and set(use.keywords) <= set(names)
        and set(needed) <= set(given)
    )


@pytest.mark.slow
def test_assigned_properties_can_be_set(report: Report) -> None:
    # __class__ of a layer: Python's own, see layer_weights.
    here = worker.parse_version(report["version"])
    assigned = {use.name: use for use in uses.tensorrt_uses() if use.assigned}
    assert READ_ONLY.keys() < assigned.keys()
    wrong = [
        f"line {use.line}: {name}"
        for name, use in assigned.items()
        if report["names"][name]["exists"] and not name.endswith("__class__")
        if report["names"][name]["settable"] == (here >= READ_ONLY.get(name, (999,)))
    ]
    names = {f"IBuilderConfig.{name}" for name in worker.PROPERTY_OPTIONS.values()}
    names |= {f"IBuilderConfig.{name}" for name, _ in worker.ENUM_OPTIONS.values()}
    names |= {"Builder.max_threads"}
    found = {name: report["names"][name] for name in names if available(name, report["version"])}
    wrong += [name for name, info in found.items() if not info["settable"]]
    assert not wrong


@pytest.mark.slow
def test_no_use_escapes_the_naming(report: Report) -> None:
    """An attribute that only TensorRT's objects have must be on a variable that uses.py knows."""
    known = {name for names in report["classes"].values() for name in names}
    known = {name for name in known if not name.startswith("_")} - OTHERS
    found = {(use.name.rpartition(".")[2], use.line) for use in uses.tensorrt_uses()}
    escaped = [
        f"line {node.lineno}: {ast.unparse(node)}"
        for node in ast.walk(uses.tree())
        if isinstance(node, ast.Attribute) and node.attr in known
        if (node.attr, node.lineno) not in found
    ]
    assert not escaped, "\n".join(escaped)


@pytest.mark.slow
def test_options(report: Report) -> None:
    here = worker.parse_version(report["version"])
    for name, answer in report["steps"].items():
        first, gone = NEEDS.get(name, "8.6"), GONE.get(name, "999")
        if here >= worker.parse_version(gone):
            assert f"was removed in TensorRT {gone}; this is {report['version']}" in answer
            assert name in answer
        elif here >= worker.parse_version(first):
            assert isinstance(answer, list), (name, answer)
        else:
            assert f"appeared in TensorRT {first}; this is {report['version']}" in answer
            assert name in answer
    sources = report["steps"]["tactic_sources"]
    has_cublas = here < (11,)
    assert sources == [
        ["tactic", "JIT_CONVOLUTIONS", True],
        *([["tactic", "CUBLAS", False]] if has_cublas else []),
    ]


@pytest.mark.slow
def test_precisions(report: Report) -> None:
    major = worker.parse_version(report["version"])[0]
    answers = report["precision"]
    assert answers["fp32"] == [["TF32", False]]
    assert answers["typed"] == [["TF32", True]]
    removed = "BuilderFlag.FP16 was removed in TensorRT 11.0"
    if major < 11:
        assert answers["fp16"] == [["FP16", True], ["TF32", True]]
    else:
        assert removed in answers["fp16"]
    if major == 10:
        assert answers["bf16"] == [["BF16", True]]
    else:
        assert "BuilderFlag.BF16" in answers["bf16"]


@pytest.mark.slow
def test_network_flags(report: Report) -> None:
    major = worker.parse_version(report["version"])[0]
    weak = {8: ["EXPLICIT_BATCH"], 10: ["EXPLICIT_BATCH"], 11: []}[major]
    assert report["network"]["weak"] == weak
    if major == 8:
        assert "appeared in TensorRT 10.0" in report["network"]["strong"]
    else:
        assert report["network"]["strong"] == [*weak, "STRONGLY_TYPED"]


@pytest.mark.slow
def test_callbacks_are_accepted_by_tensorrt(report: Report) -> None:
    made = report["callbacks"]
    assert made["errors"] == ["a message of INTERNAL_ERROR", "a message of ERROR"]
    assert "[warning] a message of WARNING" in made["logger"]
    assert made["allocator"] == [2, 3]
    major = worker.parse_version(report["version"])[0]
    assert made.get("monitor") is (True if major >= 10 else None)
    assert len(made["calibrators"]) == (2 if major <= 10 else 0)
    kind, message = made["builder"]  # the stub's factory gives nothing, as TensorRT without a GPU
    assert kind == "device"
    assert message.startswith("TensorRT cannot create a builder")


@pytest.mark.slow
def test_capabilities(report: Report) -> None:
    found = report["capabilities"]
    major = worker.parse_version(report["version"])[0]
    assert found["weak"] == (major < 11)
    assert found["typed"] == (major >= 10)
    assert ("bf16" in found["precisions"]) == (major >= 10)
    assert found["progress"] == found["onnx_refitter"] == (major >= 10)
    assert found["calibrators"] == (["entropy2", "minmax"] if major < 11 else [])
    assert "WORKSPACE" in found["pools"]
    assert "builder_optimization_level" in found["builder_properties"]
    assert "set_flag" not in found["builder_properties"]
    assert found["opset"] >= 17


@pytest.mark.slow
def test_identity_names_version_and_bindings(report: Report) -> None:
    found = report["identity"]
    assert found["tensorrt"] == report["version"]
    plain = found["tensorrt_major"] == 8
    assert found["bindings"] == ("tensorrt" if plain else "tensorrt-cu12")


@pytest.mark.slow
def test_bindings_without_libraries_are_a_clear_refusal(
    tensorrt: bindings.Bindings, tmp_path: Path
) -> None:
    (tmp_path / "request.json").write_text('{"op": "probe"}')
    environment = {**tensorrt.environment(), "LD_LIBRARY_PATH": ""}
    subprocess.run(
        [sys.executable, bindings.WORKER, tmp_path], check=True, env=environment, timeout=60
    )
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["kind"] == "missing"
    assert "cannot load its libraries: libnv" in result["message"], result
    assert "LD_LIBRARY_PATH" in result["hint"]


@pytest.fixture(scope="module", params=CUDA, ids=lambda packages: packages[0])
def cuda(request: pytest.FixtureRequest, downloads: Path) -> tuple[Path, ...]:
    return tuple(bindings.package(downloads, requirement) for requirement in request.param)


ASK_CUDA = """
import json, sys
sys.path[:0] = json.loads(sys.argv[1])
import importlib.util
spec = importlib.util.spec_from_file_location("worker", sys.argv[2])
worker = importlib.util.module_from_spec(spec)
sys.modules["worker"] = worker
spec.loader.exec_module(worker)
api = worker.load_cuda().api
found = {}
for name in json.load(sys.stdin):
    value = worker.lookup(api, name)
    text = (value.__doc__ or "").strip().splitlines() if callable(value) else []
    found[name] = None if value is None else text[0] if text else ""
print(json.dumps(found))
"""


@pytest.mark.slow
def test_cuda_names_and_signatures(cuda: tuple[Path, ...]) -> None:
    wanted = uses.cuda_uses()
    assert len({use.name for use in wanted}) > 35
    done = subprocess.run(
        [sys.executable, "-c", ASK_CUDA, json.dumps([str(path) for path in cuda]), bindings.WORKER],
        input=json.dumps(sorted({use.name for use in wanted})),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    wrong = []
    for use in wanted:
        text = found[use.name]
        if text is None:
            wrong.append(f"line {use.line}: no {use.name}")
        elif use.arguments is not None:
            match = re.match(r"\w+\((.*)\)", text)
            parameters = [part for part in match[1].split(",") if part.strip()] if match else None
            if parameters is None or len(parameters) != use.arguments:
                wrong.append(f"line {use.line}: {use.name} takes {text}, given {use.arguments}")
    assert not wrong


@pytest.mark.slow
def test_without_a_driver_nothing_is_created(
    tensorrt: bindings.Bindings, cuda: tuple[Path, ...], tmp_path: Path
) -> None:
    """Real bindings and cuda-python, no GPU: a clear refusal before TensorRT is touched."""
    if cuda_has_device():
        pytest.skip("this machine has a CUDA device")
    (tmp_path / "request.json").write_text('{"op": "probe"}')
    done = subprocess.run(
        [sys.executable, bindings.WORKER, tmp_path],
        capture_output=True,
        text=True,
        check=False,
        env=tensorrt.environment(*cuda),
    )
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["kind"] == "device", result
    assert "no CUDA device" in result["message"]
    assert "driver" in result["hint"]
    assert result["seen"]["tensorrt"] == tensorrt.version


def cuda_has_device() -> bool:
    return Path("/proc/driver/nvidia/version").exists() and os.environ.get(
        "CUDA_VISIBLE_DEVICES", "0"
    ) not in ("", "-1")
