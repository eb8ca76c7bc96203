"""Plans of ``target=tensorrt``: what is in which key, what is refused, and what a plan shows."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import pytest
import yaml

from orchestrator.errors import ConfigError, OrchestrateError, PlanError
from orchestrator.plan.graph import Action
from tests.backends.tensorrt.standin.project import events, make_project
from tests.plan.variants import keys, plan, stages

TARGET = ("target=tensorrt", "toolchain=trt86", "precision=fp16")
#: The engine and what is said of it; what comes before does not know the target.
OF_THE_ENGINE = {"build", "run engine", "run task", "audit", "benchmark"}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with stand-in toolchains, whose probes most tests share."""
    root = tmp_path_factory.mktemp("targets")
    make_project(root)
    source = (root / "conf/toolchain/trt86.yaml").read_text()
    (root / "conf/toolchain/trt86b.yaml").write_text(source.replace("8.6.1", "8.6.0"))
    return root


@pytest.fixture(autouse=True)
def project(empty_directory: Path, shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in the shared project, with a store of its own."""
    monkeypatch.chdir(shared)
    monkeypatch.setenv("XDG_CACHE_HOME", str(shared / "cache"))


@pytest.fixture
def private(project: None, empty_directory: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a project and a store that no other test knows."""
    make_project(empty_directory)
    monkeypatch.chdir(empty_directory)
    monkeypatch.setenv("XDG_CACHE_HOME", str(empty_directory / "cache"))
    monkeypatch.setenv("STANDIN_COUNT", str(empty_directory / "events"))
    return empty_directory


@functools.cache
def usual(*overrides: str) -> dict[str, str]:
    """The keys of what tests compare with."""
    return keys(*overrides)


def changed(*overrides: str, base: tuple[str, ...] = TARGET) -> set[str]:
    """Return the roles whose keys *overrides* change."""
    before, after = usual(*base), keys(*base, *overrides)
    assert set(before) == set(after)
    return {role for role, key in after.items() if key != before[role]}


def actions(*overrides: str) -> dict[str, Action]:
    """Return the actions of one variant by role."""
    with plan(*overrides) as found:
        (variant,) = found.graph.variants
        return {
            role: found.graph.actions[identity]
            for role, identity in stages(variant, found.graph).items()
        }


NO_KEY = (
    "target.timing_cache=false",
    "toolchain.name=other",
    "++toolchain.transport=pipe",
    "++toolchain.installation=image",
    "compare.fp16.max_error=0.5",
    "audit=strict",
    "executor.workers=1",
    "benchmark.threads=2",  # of a processor
    "benchmark.beside=none",
    "calibration.count=64",  # of a precision that is not calibrated
)


def test_what_enters_no_key() -> None:
    if changed(*NO_KEY):
        guilty = {override: roles for override in NO_KEY if (roles := changed(override))}
        raise AssertionError(f"these change a key: {guilty}")


@pytest.mark.parametrize(
    ("override", "roles"),
    [
        ("++target.workspace_mib=64", {"build"}),
        ("++target.optimization_level=1", {"build"}),
        ("++target.builder_flags={DEBUG:true}", {"build"}),
        ("benchmark.cuda_graph=false", {"benchmark"}),
        ("benchmark.shapes=[opt,max]", {"benchmark"}),
        ("toolchain=trt86b", OF_THE_ENGINE),
    ],
)
def test_what_enters_which_key(override: str, roles: set[str]) -> None:
    """As if every input were there, with the same bytes."""
    assert changed(override) == roles


#: A device, one that is equal to it, and a smaller one.
UUIDS = [f"GPU-5741d177-0000-4000-8000-{number:012}" for number in (1, 2, 3)]
THREE = json.dumps([{"uuid": UUIDS[0]}, {"uuid": UUIDS[1]}, {"uuid": UUIDS[2], "sms": 114}])


def test_another_device_is_another_engine(private: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STANDIN_DEVICE", THREE)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    before = keys(*TARGET)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    twin = keys(*TARGET)
    assert {role for role in twin if twin[role] != before[role]} == {"benchmark"}, "an equal device"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2")
    smaller = keys(*TARGET)
    assert {role for role in smaller if smaller[role] != before[role]} == OF_THE_ENGINE


def test_equal_devices_serve_one_engine(private: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STANDIN_DEVICE", THREE)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    alone = keys(*TARGET)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert keys(*TARGET) == alone, "which of them it is, is in no key"
    found = actions(*TARGET)
    for role in ("build", "run engine", "audit"):
        assert found[role].devices == tuple(UUIDS[:2]), role
    assert found["benchmark"].devices == (UUIDS[0],), "those of a sweep are compared"


def test_an_engine_is_keyed_by_what_the_worker_saw() -> None:
    build = actions(*TARGET)["build"]
    expect = build.params["target"]["expect"]
    assert (expect["tensorrt"], expect["device"]["name"]) == ("8.6.1", "Stand-in GPU")
    assert "uuid" not in expect["device"]
    assert build.devices == ("GPU-5741d177-0000-4000-8000-000000000001",)
    assert build.reach["name"] == "trt86"
    assert build.params["target"]["precision"]["flags"] == ["FP16"]


def test_a_version_decides_how_a_precision_is_lowered() -> None:
    forms = {
        (toolchain, precision): {"cast", "quantize"}
        & set(actions("target=tensorrt", f"toolchain={toolchain}", f"precision={precision}"))
        for toolchain in ("trt86", "trt10")
        for precision in ("fp16", "int8")
    }
    assert forms == {
        ("trt86", "fp16"): set(),
        ("trt86", "int8"): {"quantize"},
        ("trt10", "fp16"): {"cast"},
        ("trt10", "int8"): {"quantize"},
    }


@pytest.mark.parametrize(
    ("words", "where", "text", "hint"),
    [
        (
            ["toolchain=trt86", "++target.strip_weights=true"],
            "target.strip_weights",
            "BuilderFlag.STRIP_PLAN needs TensorRT >= 10.0; trt86 has 8.6.1",
            "toolchain",
        ),
        (
            ["toolchain=trt10", "++target.build_route=x"],
            "target.build_route",
            "needs TensorRT >= 11.1; trt10 has 10.7.0",
            "toolchain",
        ),
        (
            ["toolchain=trt86", "++target.builder_flags={DEBUGG:true}"],
            "target.builder_flags.DEBUGG",
            "is in no TensorRT",
            "DEBUG",
        ),
        (
            ["toolchain=trt86", "precision=bf16"],
            "precision",
            "precision=bf16 needs TensorRT >= 10.0; trt86 has 8.6.1",
            "precision=fp16",
        ),
        (
            ["toolchain=trt11", "precision=int8", "calibration=tensorrt_minmax"],
            "calibration",
            "removed in 11.0; trt11 has 11.4.0",
            "Q/DQ",
        ),
        (
            ["toolchain=trt10", "precision=fp8", "exporter.opset=18"],
            "exporter.opset",
            "needs ONNX types of opset >= 19",
            "exporter.opset=19",
        ),
        (
            ["toolchain=trt86", "target.plugins=[nowhere.so]"],
            "target.plugins.0",
            "no such file: nowhere.so",
            "relative paths",
        ),
        (
            ["toolchain=trt86", "target.device=3"],
            "target.device",
            "device 3 was asked for; 1 are visible",
            "below 1",
        ),
        (["toolchain=local"], "", "TensorRT is not installed in", "toolchain.command"),
        (
            ["toolchain.command=[no-such-python]"],
            "toolchain.command",
            "there is no program 'no-such-python'",
            "full path",
        ),
    ],
)
def test_what_cannot_be_honoured_is_refused_before_anything_runs(
    words: list[str], where: str, text: str, hint: str
) -> None:
    with pytest.raises((PlanError, ConfigError)) as caught, plan("target=tensorrt", *words):
        pass
    error: OrchestrateError = caught.value
    assert text in error.message
    assert error.where == where
    assert hint in error.hint


def test_no_driver_is_said_and_not_remembered(
    private: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STANDIN_FAULT", "no_driver")
    with pytest.raises(PlanError, match="no CUDA device") as caught:
        actions(*TARGET)
    assert "NVIDIA driver" in caught.value.hint
    monkeypatch.delenv("STANDIN_FAULT")
    assert "build" in actions(*TARGET)
    assert "build" in actions(*TARGET, "precision=fp32")
    assert [one["op"] for one in events(private / "events")] == ["probe", "probe"]


def test_a_broken_tensorrt_is_told_apart_from_none(private: Path) -> None:
    broken = private / "broken"
    broken.mkdir()
    (broken / "tensorrt.py").write_text("raise ImportError('libnvinfer.so.10: cannot open')\n")
    path = private / "conf/toolchain/trt86.yaml"
    toolchain = yaml.safe_load(path.read_text())
    toolchain["command"][1] = f"PYTHONPATH={broken}"
    path.write_text(yaml.safe_dump(toolchain))
    with pytest.raises(PlanError, match=r"cannot load its libraries: libnvinfer\.so\.10"):
        actions(*TARGET)


def test_a_plan_shows_the_same_engine_by_trtexec() -> None:
    with plan(*TARGET, "++target.workspace_mib=64") as found:
        (variant,) = found.graph.variants
    assert variant.command.startswith("trtexec --onnx=model.onnx --saveEngine=engine.plan")
    words = set(variant.command.split())
    assert {"--fp16", "--memPoolSize=workspace:64", "--optShapes=image:16x1x8x8"} <= words


def test_reuse_builds_for_the_graph_and_refits() -> None:
    found = actions(*TARGET, "target.reuse=true")
    assert {"skeleton", "build", "refit"} <= set(found)
    assert found["build"].params["target"]["options"]["refit"] == "refit"
    assert "onnx" in found["build"].unkeyed
    with plan("target=tensorrt", "toolchain=trt86", "precision=int8", "target.reuse=true") as made:
        (variant,) = made.graph.variants
    assert "cannot be refitted" in " ".join(variant.notes)
