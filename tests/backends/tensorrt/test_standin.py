"""The worker's operations over the stand-in: what later tests build on is what it says it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from orchestrator.backends.tensorrt.audit import audit_engine
from orchestrator.backends.tensorrt.failures import ToolchainError
from orchestrator.backends.tensorrt.graph_nodes import onnx_nodes
from orchestrator.backends.tensorrt.inspector import parse
from orchestrator.backends.tensorrt.plan_file import read_header
from orchestrator.backends.tensorrt.toolchain import Answer, Toolchain, Transport, call
from orchestrator.backends.tensorrt.versions import lowering, parse_version
from orchestrator.backends.tensorrt.work import observe
from orchestrator.errors import WorkerLostError
from tests.backends import nets
from tests.backends.tensorrt.standin import command

# What needs the stand-in finds out soon enough when it is broken.
pytestmark = pytest.mark.slow

Array = np.ndarray[Any, Any]
Json = dict[str, Any]
SHAPE = (16, 8, 8)
PROFILES = [
    {"x": {"min": [1, *SHAPE], "opt": [2, *SHAPE], "max": [4, *SHAPE]}},
    {"x": {"min": [5, *SHAPE], "opt": [8, *SHAPE], "max": [8, *SHAPE]}},
]


@dataclass
class Desk:
    """A toolchain of one version, and a directory for each call."""

    root: Path
    version: str = "8.6.1"
    transport: Transport = "auto"
    settings: dict[str, str] = field(default_factory=dict)

    def ask(self, request: Json, **files: Path) -> tuple[Path, Answer]:
        """Serve *request*; files are called ``NAME.SUFFIX`` after the argument and the file."""
        directory = self.root / f"call-{len(list(self.root.iterdir()))}"
        directory.mkdir()
        words = command(version=self.version, count=str(self.root / "events"), **self.settings)
        toolchain = Toolchain(name="standin", command=tuple(words), transport=self.transport)
        named = {name + path.suffix: path for name, path in files.items()}
        return directory, call(toolchain, request, directory, files=named)

    def build(self, model: Path, precision: str = "fp32", **more: Any) -> Path:
        """Return the plan of *model*."""
        directory, _ = self.ask(build_request(self.version, precision, **more), model=model)
        return directory / "engine.plan"

    def run(self, plan: Path, *feeds: Json, **more: Any) -> list[dict[str, Array]]:
        """Return the outputs for each of *feeds*."""
        files = {f"in{at}": save_arrays(self.root / f"in{at}.npz", x) for at, x in enumerate(feeds)}
        batches = [[f"{name}.npz", f"out-{name}.npz"] for name in files]
        request = {"op": "run", "plan": "engine.plan", "batches": batches, **more}
        directory, _ = self.ask(request, engine=plan, **files)
        return [dict(np.load(directory / target)) for _, target in batches]

    def inspect(self, plan: Path, **more: Any) -> Json:
        """Return the inspection of *plan*."""
        request = {"op": "inspect", "plan": "engine.plan", **more}
        return self.ask(request, engine=plan)[1].values

    def events(self) -> list[str]:
        """Return what happened so far, over all processes."""
        lines = (self.root / "events").read_text().splitlines()
        return [json.loads(line)["event"] for line in lines]


def build_request(version: str, precision: str, **more: Any) -> Json:
    found = lowering(precision, parse_version(version), more.pop("calibrator", None))
    return {
        "op": "build",
        "onnx": "model.onnx",
        "plan": "engine.plan",
        "precision": found.request(keep_nodes=more.pop("keep", ())),
        "profiles": PROFILES,
        "options": {"profiling_verbosity": "detailed", **more.pop("options", {})},
        **more,
    }


def save_arrays(path: Path, arrays: Json) -> Path:
    np.savez(path, **arrays)
    return path


def images(items: int) -> dict[str, Array]:
    rng = np.random.default_rng(items)
    return {"x": rng.standard_normal((items, *SHAPE)).astype(np.float32)}


def answer(model: Path, feeds: dict[str, Array]) -> Array:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    found: Array = session.run(None, feeds)[0]
    return found


def audit(found: Json, model: Path, precision: str, tf32: bool | None = None) -> str:
    shapes = {"x": [4, *SHAPE]}
    observed = observe(parse(found["layers"]), nodes=onnx_nodes(onnx.load(model), shapes))
    return str(audit_engine(observed, {"name": precision}, tf32=tf32)["verdict"])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    return nets.save(nets.conv_net(), path / "conv") / "model.onnx"


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("half")
    return nets.save(nets.conv_net(half=True), path / "conv") / "model.onnx"


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    """An fp32 engine of 8.6.1."""
    return Desk(tmp_path_factory.mktemp("plan")).build(model)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    return lambda fault: monkeypatch.setenv("STANDIN_FAULT", fault)


@pytest.mark.parametrize(
    ("version", "has", "lacks"),
    [
        ("8.6.1", "ENABLE_TACTIC_HEURISTIC", "STRIP_PLAN"),
        ("10.7.0", "STRIP_PLAN", "ENABLE_TACTIC_HEURISTIC"),
        ("11.4.0.106", "STRIP_PLAN", "FP16"),
    ],
)
def test_a_probe_names_what_the_version_has(
    tmp_path: Path, version: str, has: str, lacks: str
) -> None:
    _, found = Desk(tmp_path, version).ask({"op": "probe"})
    assert found.seen["tensorrt"] == version
    assert found.seen["device"]["name"] == "Stand-in GPU"
    assert found.seen["device"]["uuid"].startswith("GPU-5741d177-")
    flags = found.values["capabilities"]["builder_flags"]
    assert has in flags
    assert lacks not in flags
    assert found.values["capabilities"]["typed"] is (version[0] != "8")


@pytest.mark.parametrize(("version", "transport"), [("8.6.1", "auto"), ("10.7.0", "pipe")])
def test_an_engine_of_two_profiles_computes_what_its_model_computes(
    tmp_path: Path, model: Path, version: str, transport: Transport
) -> None:
    desk = Desk(tmp_path, version, transport)
    plan = desk.build(model)
    numbers = tuple(map(int, version.split(".")))
    assert read_header(plan).version[:3] == numbers
    feeds = [images(items) for items in (1, 4, 8, 5)]  # 1 and 4 in the first profile
    plain = desk.run(plan, *feeds)
    graphs = desk.run(plan, *feeds, cuda_graph=True)
    for given, found, captured in zip(feeds, plain, graphs, strict=True):
        np.testing.assert_allclose(found["y"], answer(model, given), rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(captured["y"], found["y"])
    with pytest.raises(ToolchainError, match="no optimization profile holds 'x'"):
        desk.run(plan, images(9))


def test_builds_are_counted_and_differ(desk: Desk, model: Path) -> None:
    first, second = desk.build(model), desk.build(model)
    assert first.read_bytes() != second.read_bytes()
    assert desk.events() == ["start", "build", "built"] * 2


@pytest.mark.parametrize(
    ("version", "precision", "onnx_file"),
    [
        ("8.6.1", "fp32", "model"),
        ("8.6.1", "tf32", "model"),
        ("8.6.1", "fp16", "model"),
        ("10.7.0", "fp16", "half"),
        ("11.4.0", "fp16", "half"),
    ],
)
def test_the_audit_proves_what_was_asked_for(
    tmp_path: Path, request: pytest.FixtureRequest, version: str, precision: str, onnx_file: str
) -> None:
    desk, path = Desk(tmp_path, version), request.getfixturevalue(onnx_file)
    found = desk.inspect(desk.build(path, precision), shapes={"x": [4, *SHAPE]})
    assert audit(found, path, precision) == "proved"


def test_a_typed_model_without_its_flag_is_a_tf32_engine_on_8_6(desk: Desk, half: Path) -> None:
    found = desk.inspect(desk.build(half, "tf32"), shapes={"x": [4, *SHAPE]})
    assert audit(found, half, "fp16") == "refuted"


def test_a_lying_builder_is_refuted(desk: Desk, model: Path, broken: Callable[[str], None]) -> None:
    broken("silent_tf32")
    found = desk.inspect(desk.build(model, "fp32"), shapes={"x": [4, *SHAPE]})
    assert audit(found, model, "fp32") == "refuted"


def test_a_layer_is_held_in_fp32(desk: Desk, model: Path) -> None:
    request = build_request("8.6.1", "fp16")
    request["precision"] = lowering("fp16", parse_version("8.6.1"), kept=True).request(["conv2"])
    directory, built = desk.ask(request, model=model)
    assert built.values["kept_layers"] == 1
    found = desk.inspect(directory / "engine.plan", shapes={"x": [4, *SHAPE]})
    kernels = {layer["Name"]: layer["TacticName"] for layer in found["layers"]["Layers"]}
    assert "f32f32_f32f32_f32" in kernels["conv2"]
    assert "f16f16_f16f16_f16" in kernels["conv1"]


def test_formats_are_shown_only_where_shapes_are_set(desk: Desk, plan: Path) -> None:
    hidden = json.dumps(desk.inspect(plan)["layers"])
    shown = json.dumps(desk.inspect(plan, shapes={"x": [4, *SHAPE]})["layers"])
    assert "N/A due to dynamic shapes" in hidden
    assert "N/A due to dynamic shapes" not in shown


def test_layers_are_timed(desk: Desk, plan: Path) -> None:
    given = save_arrays(desk.root / "given.npz", images(2))
    request = {"op": "inspect", "plan": "engine.plan", "inputs": "x.npz", "time": True, "runs": 3}
    _, found = desk.ask(request, engine=plan, x=given)
    names = [layer["Name"] for layer in found.values["layers"]["Layers"]]
    assert names == ["conv1", "conv2", "gemm"]
    assert [(row["name"], row["runs"]) for row in found.values["profile"]] == [
        (name, 3) for name in names
    ]


def test_quantized_models_need_the_int8_flag_on_8_6(desk: Desk, tmp_path: Path) -> None:
    path = nets.save(nets.qdq_matmul_net(), tmp_path / "qdq") / "model.onnx"
    profiles = [{"x": {"min": [1, 8], "opt": [2, 8], "max": [4, 8]}}]
    found = desk.inspect(desk.build(path, "int8", profiles=profiles), shapes={"x": [2, 8]})
    assert "i8i32" in found["layers"]["Layers"][0]["TacticName"]
    with pytest.raises(ToolchainError, match="int8 is not configured"):
        desk.build(path, "fp32", profiles=profiles)


@pytest.mark.parametrize("calibrator", ["entropy2", "minmax"])
def test_a_calibrator_sees_its_batches_and_keeps_its_table(
    desk: Desk, model: Path, calibrator: str
) -> None:
    files = {
        f"c{at}": save_arrays(desk.root / f"c{at}.npz", images(4 + at // 2)) for at in range(3)
    }
    request = build_request("8.6.1", "int8", calibrator=calibrator)
    batches = [f"{name}.npz" for name in files]
    table = {"cache_read": "table", "cache_write": "table"}
    request["calibration"] = {"algorithm": calibrator, "batches": batches, **table}
    directory, built = desk.ask(request, model=model, **files)
    assert built.values["calibration_batches"] == 2  # the third has another shape
    largest = np.float32(np.abs(images(4)["x"]).max())
    assert f"x: {largest.tobytes()[::-1].hex()}" in (directory / "table").read_text()
    found = desk.inspect(directory / "engine.plan", shapes={"x": [4, *SHAPE]})
    assert all(layer["Weights"]["Type"] == "Int8" for layer in found["layers"]["Layers"])


def test_int8_without_ranges_is_no_engine(desk: Desk, model: Path) -> None:
    with pytest.raises(ToolchainError, match="no scaling factors detected"):
        desk.build(model, "int8")


def test_the_timing_cache_grows_and_is_of_its_version(desk: Desk, model: Path) -> None:
    cache = {"timing_cache": {"read": str(desk.root / "c"), "write": str(desk.root / "c")}}
    first = desk.ask(build_request("8.6.1", "fp32", **cache), model=model)[1].values
    second = desk.ask(build_request("8.6.1", "fp32", **cache), model=model)[1].values
    desk.version = "10.7.0"
    third = desk.ask(build_request("10.7.0", "fp32", **cache), model=model)[1].values
    used = [row["timing_cache"]["used"] for row in (first, second, third)]
    assert used == [False, True, False]


def test_of_many_warnings_some_are_kept(tmp_path: Path, model: Path) -> None:
    desk = Desk(tmp_path, settings={"fault": "chatty:500"})
    values = desk.ask(build_request("8.6.1", "fp32"), model=model)[1].values
    assert values["parser_warnings"] == [f"warning {at}" for at in range(40)]
    assert values["warnings"][-1] == "warning 499"


@pytest.mark.parametrize("version", ["8.6.1", "10.7.0"])
def test_a_refit_engine_computes_with_the_new_weights(
    tmp_path: Path, model: Path, version: str
) -> None:
    desk = Desk(tmp_path, version)
    plan = desk.build(model, options={"refit": "refit"})
    changed = onnx.load(model)
    for tensor in changed.graph.initializer:
        array = numpy_helper.to_array(tensor) * np.float32(1.5)
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    new = nets.save(changed, tmp_path / "new") / "model.onnx"
    request = {"op": "refit", "plan": "engine.plan", "onnx": "model.onnx", "output": "new.plan"}
    directory, _ = desk.ask(request, engine=plan, model=new)
    (found,) = desk.run(directory / "new.plan", images(2))
    np.testing.assert_allclose(found["y"], answer(new, images(2)), rtol=1e-5, atol=1e-5)
    assert not np.allclose(found["y"], answer(model, images(2)))
    assert desk.events().count("build") == 1
    with pytest.raises(ToolchainError, match="was not built to be refitted"):
        desk.ask(request, engine=desk.build(model), model=new)
    other = nets.save(nets.matmul_net(), tmp_path / "other") / "model.onnx"
    with pytest.raises(ToolchainError, match=r"the graph changed|cannot refit from this file"):
        desk.ask(request, engine=plan, model=other)


def test_a_benchmark_measures_every_combination(desk: Desk, plan: Path) -> None:
    protocol = {"warmup_ms": 0, "measure_ms": 0, "min_runs": 3, "transfers": True}
    request = {
        "op": "benchmark",
        "plan": "engine.plan",
        "inputs": ["x.npz"],
        "protocol": {**protocol, "cuda_graph": True},
    }
    given = save_arrays(desk.root / "given.npz", images(2))
    found = desk.ask(request, engine=plan, x=given)[1].values
    pairs = [(row["cuda_graph"], row["transfers"]) for row in found["measurements"]]
    assert pairs == [(False, False), (False, True), (True, False), (True, True)]
    assert all(row["host"]["runs"] == 3 for row in found["measurements"])
    assert found["cuda_graph_note"] == ""


def test_64_bit_integers_are_32_bit_on_8_6(desk: Desk, tmp_path: Path) -> None:
    path = nets.save(_integers(), tmp_path / "int") / "model.onnx"
    profiles = [{"x": {"min": [1, 4], "opt": [2, 4], "max": [4, 4]}}]
    feeds = {"x": np.arange(8, dtype=np.int64).reshape(2, 4)}
    for version, dtype in (("8.6.1", np.int32), ("10.7.0", np.int64)):
        desk.version = version
        (found,) = desk.run(desk.build(path, profiles=profiles), feeds)
        assert found["y"].dtype == dtype
        np.testing.assert_array_equal(found["y"], feeds["x"] * 2)


def _integers() -> onnx.ModelProto:
    return nets.one_node_net("Add", TensorProto.INT64)


def test_an_unknown_operator_is_named(desk: Desk, tmp_path: Path) -> None:
    net = nets.matmul_net()
    net.graph.node.append(helper.make_node("Odd", ["h"], ["z"], name="odd", domain="mine"))
    net.opset_import.append(helper.make_opsetid("mine", 1))
    path = tmp_path / "model.onnx"
    onnx.save(net, path)
    for version in ("8.6.1", "10.7.0"):
        desk.version = version
        with pytest.raises(ToolchainError, match=r"node 'odd' \(Odd\): UNSUPPORTED_NODE: Plugin"):
            desk.build(path)


@pytest.mark.parametrize(
    ("fault", "kind", "text"),
    [
        ("oom", "memory", "out of memory"),
        ("none_built", "builder", "Could not find any implementation for node node_of_xin"),
        ("no_driver", "device", "no CUDA device"),
    ],
)
def test_a_failing_build_says_why(
    desk: Desk, model: Path, broken: Callable[[str], None], fault: str, kind: str, text: str
) -> None:
    broken(fault)
    with pytest.raises(ToolchainError, match=text) as caught:
        desk.build(model)
    assert caught.value.kind == kind
    assert "built" not in desk.events()


def test_a_crash_in_the_build_is_a_lost_worker(
    desk: Desk, model: Path, broken: Callable[[str], None]
) -> None:
    broken("crash_in_build")
    with pytest.raises(WorkerLostError, match="SIGSEGV"):
        desk.build(model)
    assert desk.events() == ["start", "build"]


def test_runs_can_fail_and_lie(
    desk: Desk, model: Path, plan: Path, broken: Callable[[str], None]
) -> None:
    broken("wrong")
    (found,) = desk.run(plan, images(2))
    np.testing.assert_allclose(found["y"], 2 * answer(model, images(2)), rtol=1e-4, atol=1e-4)
    broken("device_lost")
    with pytest.raises(ToolchainError, match="unspecified launch failure"):
        desk.run(plan, images(2))


def test_plans_of_elsewhere_and_damaged_plans_do_not_load(
    desk: Desk, plan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = desk.root / "cut.plan"
    cut.write_bytes(plan.read_bytes()[:-1])
    with pytest.raises(ToolchainError, match="blobSize failed"):
        desk.run(cut, images(1))
    monkeypatch.setenv("STANDIN_DEVICE", '{"compute_capability": "8.0"}')
    with pytest.raises(ToolchainError, match=r"expecting compute 8\.0 got compute 9\.0") as caught:
        desk.run(plan, images(1))
    assert caught.value.kind == "mismatch"
    desk.version = "10.7.0"
    with pytest.raises(ToolchainError, match="expecting library version") as caught:
        desk.run(plan, images(1))
    assert caught.value.kind == "mismatch"


def test_another_device_than_expected_is_a_mismatch(
    desk: Desk, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = desk.ask({"op": "probe"})[1].seen
    monkeypatch.setenv("STANDIN_DEVICE", '{"name": "Another GPU"}')
    with pytest.raises(ToolchainError, match="expected Stand-in GPU, found Another GPU") as caught:
        desk.build(model, expect=seen)
    assert caught.value.kind == "mismatch"
    assert "build" not in desk.events()
