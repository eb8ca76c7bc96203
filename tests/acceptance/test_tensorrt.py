"""``target=tensorrt`` from the command line, over the stand-in: what is built, proven and reused.

What the stand-in proves and what it does not, ``tests/backends/tensorrt/standin`` says.
"""

from __future__ import annotations

import json
import shutil
import struct
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import numpy_helper

from orchestrator.store.digests import of_file
from tests.acceptance.conftest import Site
from tests.backends.tensorrt.standin.project import QUICK, events, make_project
from tests.command import Built, Watched, Workplace, action

PRECISIONS = ("fp32", "tf32", "fp16", "int8")
SWEEP = ("-m", "target=tensorrt", "toolchain=trt86", f"precision={','.join(PRECISIONS)}", *QUICK)
DIGITS = ("target=tensorrt", "toolchain=trt86", *QUICK)
NET = ("target=tensorrt", "toolchain=trt86", "model=net", *QUICK)
#: What runs when an engine is another one: nothing before it, and no judge where it computes the
#: same.
FROM_BUILD = {"build", "run", "audit", "benchmark"}


@pytest.fixture(scope="module")
def engines(demo: Site, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """Digits in four precisions, built into a store that has the exported model."""
    place = demo.place.copied(tmp_path_factory.mktemp("engines"))
    make_project(place.directory)
    return Site(place=place, built=counted(place, *SWEEP))


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A small ONNX model in fp32."""
    place = Workplace.at(tmp_path_factory.mktemp("net"))
    make_project(place.directory)
    return Site(place=place, built=counted(place, *NET))


def counted(place: Workplace, *words: str) -> Built:
    """Build with every event of the toolchain noted."""
    return place.build(*words, env={"STANDIN_COUNT": str(place.directory / "events")})


def noted(place: Workplace, event: str = "start") -> list[str]:
    """Return the operations that had an *event*, so far."""
    return [one["op"] for one in events(place.directory / "events") if one["event"] == event]


def engine_of(variant: dict[str, Any]) -> Path:
    return Path(variant["directory"]) / "artifacts" / "engine"


@pytest.mark.parametrize("precision", PRECISIONS)
def test_an_engine_is_judged_audited_and_measured(engines: Site, precision: str) -> None:
    variant = engines.built.variant(f"precision={precision}")
    summary = variant["summary"]

    assert (engines.built.code, variant["status"]) == (0, "passed"), engines.built.text
    assert (summary["compute"], summary["verdict"]) == (precision, "proved")
    assert summary["metric"] > 0.98
    assert summary["p50_ms"] > 0
    judged = action(variant, "judge engine")["values"]["outputs"]["logits"]
    assert judged["cosine"] > 0.99
    plan = engine_of(variant) / "engine.plan"
    assert plan.read_bytes()[:4] == b"ftrt"
    assert tuple(plan.read_bytes()[24:28]) == (8, 6, 1, 0)


def test_a_precision_becomes_flags_of_8_6(engines: Site) -> None:
    """The stand-in writes into its plan what it was asked for."""
    flags = {
        name: set(standin_settings(engine_of(engines.built.variant(f"precision={name}")))["flags"])
        for name in PRECISIONS
    }
    assert flags == {
        "fp32": set(),
        "tf32": {"TF32"},
        "fp16": {"FP16", "TF32"},
        "int8": {"INT8", "TF32"},
    }
    roles = {
        name: {one["role"] for one in engines.built.variant(f"precision={name}")["actions"]}
        for name in PRECISIONS
    }
    assert "quantize" in roles["int8"]
    assert all("cast" not in found for found in roles.values())


def standin_settings(engine: Path) -> dict[str, Any]:
    """Return what the stand-in was configured with when it built an engine."""
    data = (engine / "engine.plan").read_bytes()
    (size,) = struct.unpack_from("<I", data, 32)
    found: dict[str, Any] = json.loads(data[36 : 36 + size])["builder"]
    return found


def test_a_manifest_says_how_trtexec_would_build_it(engines: Site) -> None:
    variant = engines.built.variant("precision=fp16")
    written = json.loads((Path(variant["directory"]) / "manifest.json").read_text())
    assert "trtexec --onnx=" in json.dumps(written)
    assert "--fp16" in json.dumps(written)


def test_one_toolchain_is_asked_once(engines: Site) -> None:
    found = noted(engines.place)
    assert found.count("probe") == 1
    assert found.count("build") == noted(engines.place, "built").count("build") == 4


def test_the_second_time_nothing_runs(engines: Site) -> None:
    before = noted(engines.place)
    again = counted(engines.place, *SWEEP)

    assert again.code == 0
    assert again.ran() == set()
    assert noted(engines.place) == before, "not even a probe"
    assert again.heavy == []
    assert "tensorrt" not in again.modules


@pytest.mark.slow
def test_a_calibrator_replaces_q_dq(engines: Site, copy_of: Callable[[Site], Workplace]) -> None:
    place = copy_of(engines)
    words = (*DIGITS, "precision=int8", "calibration=tensorrt_entropy")
    built = counted(place, *words)
    (variant,) = built.variants

    assert (built.code, variant["status"]) == (0, "passed"), built.text
    assert {one["role"] for one in variant["actions"]}.isdisjoint({"quantize", "cast"})
    assert action(variant, "build")["values"]["calibration_batches"] > 1
    assert variant["summary"]["verdict"] == "proved"

    more = counted(place, *words, "++target.workspace_mib=64")
    (variant,) = more.variants
    assert more.code == 0
    assert action(variant, "build")["values"]["calibration_batches"] == 0, "the table was kept"


@pytest.mark.slow
def test_another_workspace_builds_the_engine_again(
    engines: Site, copy_of: Callable[[Site], Workplace]
) -> None:
    place = copy_of(engines)
    built = counted(place, *DIGITS, "++target.workspace_mib=64")
    (variant,) = built.variants

    assert built.code == 0, built.text
    assert built.ran() == FROM_BUILD
    assert built.statuses()["run onnx"] == "cached"
    assert standin_settings(engine_of(variant))["pools"] == {"WORKSPACE": 64 << 20}
    assert action(variant, "build")["values"]["timing_cache"]["used"] is True


def test_another_tolerance_builds_nothing(engines: Site) -> None:
    before = noted(engines.place)
    built = counted(engines.place, *DIGITS, "compare.fp32.max_error=0.5")

    assert built.code == 0, built.text
    assert built.ran() == set()
    assert noted(engines.place) == before


def test_a_narrower_tolerance_fails_without_building(engines: Site) -> None:
    words = (*DIGITS, "precision=fp16", "compare.fp16.max_error=1e-12")
    built = counted(engines.place, *words)

    assert built.code == 1
    assert built.ran() == set()
    assert "engine (fp16)" in {one["where"] for one in built.variants[0]["failures"]}


@pytest.mark.slow
def test_other_weights_build_again_from_the_import_on(
    net: Site, copy_of: Callable[[Site], Workplace]
) -> None:
    place = copy_of(net)
    scale_weights(place, 1.25)
    built = counted(place, *NET)

    assert built.code == 0, built.text
    assert {"import_onnx", "simplify", "canonicalize"} | FROM_BUILD <= built.ran()
    assert built.statuses()["samples"] == "cached"


def scale_weights(place: Workplace, factor: float) -> None:
    """Multiply every weight of the project's model."""
    path = place.directory / "net.onnx"
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        tensor.CopyFrom(numpy_helper.from_array((array * factor).astype(array.dtype), tensor.name))
    onnx.save(model, path)


@pytest.mark.slow
@pytest.mark.parametrize("toolchain", ["trt86", "trt10"])
def test_other_weights_refit_an_engine_that_is_reused(place: Workplace, toolchain: str) -> None:
    make_project(place.directory)
    words = ("target=tensorrt", f"toolchain={toolchain}", "model=net", "target.reuse=true", *QUICK)
    first = counted(place, *words)
    assert first.code == 0, first.text
    scale_weights(place, 1.25)
    second = counted(place, *words)

    assert second.code == 0, second.text
    assert noted(place, "build") == ["build"], "the second engine was refitted"
    assert len(noted(place, "refit")) == 2
    assert action(second.variants[0], "refit")["values"]["refitted"] is True
    assert "build" not in second.ran()
    assert {"judge", "audit", "benchmark"} <= second.ran()
    third = counted(place, *words)
    assert third.ran() == set()


@pytest.mark.slow
def test_a_changed_graph_is_built_and_not_refitted(place: Workplace) -> None:
    make_project(place.directory)
    words = ("target=tensorrt", "toolchain=trt86", "model=net", "target.reuse=true", *QUICK)
    assert counted(place, *words).code == 0
    path = place.directory / "net.onnx"
    model = onnx.load(path)
    (relu,) = [node for node in model.graph.node if node.op_type == "Relu"]
    relu.op_type = "Sigmoid"
    onnx.save(model, path)
    second = counted(place, *words)
    assert second.code == 0, second.text
    assert noted(place, "build") == ["build", "build"]


@pytest.mark.slow
def test_two_versions_are_keyed_apart_and_share_the_rest(place: Workplace) -> None:
    make_project(place.directory)
    sweep = ("-m", "target=tensorrt", "toolchain=trt86,trt10,trt11", "model=net", "precision=fp16")
    built = counted(place, *sweep, *QUICK)

    assert built.code == 0, built.text
    by_name = {name: built.variant(f"toolchain={name}") for name in ("trt86", "trt10", "trt11")}
    keys = {
        role: {name: action(found, role)["key"] for name, found in by_name.items()}
        for role in ("import", "canonicalize", "reference", "build", "audit", "benchmark")
    }
    for role in ("import", "canonicalize", "reference"):
        assert len(set(keys[role].values())) == 1, role
    for role in ("build", "audit", "benchmark"):
        assert len(set(keys[role].values())) == 3, role
    roles = {name: {one["role"] for one in found["actions"]} for name, found in by_name.items()}
    assert "cast" not in roles["trt86"], "8.6 lowers by a flag"
    assert "cast" in roles["trt10"] & roles["trt11"], "10 and 11 take a typed model"
    assert {found["summary"]["verdict"] for found in by_name.values()} == {"proved"}
    assert sorted(noted(place)).count("probe") == 3
    assert counted(place, *sweep, *QUICK).ran() == set()


@pytest.mark.slow
@pytest.mark.parametrize("toolchain", ["trt10", "trt11"])
def test_typed_networks_in_every_precision(place: Workplace, toolchain: str) -> None:
    """bf16 and fp8 need opset 22 and 19."""
    make_project(place.directory)
    names = ("fp32", "fp16", "bf16", "int8", "fp8")
    sweep = ("-m", "target=tensorrt", f"toolchain={toolchain}", f"precision={','.join(names)}")
    built = counted(place, *sweep, "exporter.opset=22", *QUICK)
    assert built.code == 0, built.text
    found = {name: built.variant(f"precision={name}")["summary"] for name in names}
    assert {name: summary["compute"] for name, summary in found.items()} == {n: n for n in names}
    assert {summary["verdict"] for summary in found.values()} == {"proved"}
    for variant in built.variants:
        flags = set(standin_settings(engine_of(variant))["flags"])
        assert flags <= {"TF32"}, "no precision flag of a typed network"


@pytest.mark.slow
def test_a_transformer_with_64_bit_inputs(place: Workplace) -> None:
    """8.6 takes them as 32-bit ones; weights beyond the ONNX file itself reach it as well."""
    make_project(place.directory)
    words = ("target=tensorrt", "toolchain=trt86", "model=minilm", "precision=fp16")
    built = counted(place, *words, "benchmark=none")
    (variant,) = built.variants
    assert built.code == 0, built.text
    manifest = json.loads((engine_of(variant) / "engine.plan.json").read_text())
    assert {port["dtype"] for port in manifest["inputs"]} == {"int32"}
    assert variant["summary"]["verdict"] == "proved"


@pytest.mark.slow
def test_operators_kept_in_fp32(place: Workplace) -> None:
    make_project(place.directory)
    keep = ("precision=fp16", "precision.keep_op_types=[Gemm]", "audit=strict")
    for toolchain in ("trt86", "trt10"):
        built = counted(place, *NET, f"toolchain={toolchain}", *keep)
        assert built.code == 0, built.text
        values = action(built.variants[0], "audit")["values"]
        assert values["compute_by_op"]["Gemm"].keys() == {"float32"}, toolchain
        assert values["compute_by_op"]["Conv"].keys() == {"float16"}, toolchain


@pytest.mark.slow
def test_calibrators_work_on_10_with_weak_typing(place: Workplace) -> None:
    make_project(place.directory)
    words = (*NET, "toolchain=trt10", "precision=int8", "calibration=tensorrt_minmax")
    built = counted(place, *words)
    (variant,) = built.variants
    assert built.code == 0, built.text
    assert "INT8" in standin_settings(engine_of(variant))["flags"]
    assert variant["summary"]["verdict"] == "proved"


@pytest.mark.slow
def test_a_refused_operator_is_named_with_its_module(place: Workplace) -> None:
    make_project(place.directory)
    words = ("target=tensorrt", "toolchain=trt86", "benchmark=none")
    failed = place.build(*words, env={"STANDIN_FAULT": "unsupported:MaxPool"})
    assert failed.code == 1
    assert "(MaxPool): UNSUPPORTED_NODE: Plugin not found" in failed.text
    assert "came from module 'pool'" in failed.text
    assert "model.py" in failed.text


@pytest.mark.slow
def test_plugin_libraries_are_part_of_the_key(place: Workplace) -> None:
    make_project(place.directory)
    first, second, *_ = sorted((Path(sysconfig.get_path("stdlib")) / "lib-dynload").glob("*.so"))
    plugin = place.directory / "plugin.so"
    shutil.copy(first, plugin)
    words = (*NET, "target.plugins=[plugin.so]")
    built = counted(place, *words)
    assert built.code == 0, built.text
    manifest = json.loads((engine_of(built.variants[0]) / "engine.plan.json").read_text())
    assert manifest["plugins"] == {"plugin.so": of_file(first)}
    shutil.copy(second, plugin)
    again = counted(place, *words)
    assert again.code == 0, again.text
    assert "build" in again.ran()
    plugin.write_bytes(b"no library")
    broken = counted(place, *words)
    assert broken.code == 1
    assert "plugin library 'plugin.so' cannot be loaded" in broken.text
    assert "target.plugins" in broken.text


@pytest.mark.slow
def test_the_chain_over_a_pipe_gives_the_same_engine_key(place: Workplace) -> None:
    """How a toolchain is reached is in no key."""
    make_project(place.directory)
    first = counted(place, *NET)
    piped = counted(place, *NET, "++toolchain.transport=pipe", "toolchain.name=elsewhere")
    assert (first.code, piped.code) == (0, 0), piped.text
    assert piped.ran() == set()
    built = counted(place, *NET, "++toolchain.transport=pipe", "++target.workspace_mib=32")
    assert built.code == 0, built.text
    assert built.ran() == FROM_BUILD


@pytest.mark.slow
def test_several_profiles_and_shapes(place: Workplace) -> None:
    make_project(place.directory)
    further = "profile.further=[{batch:{min:9,opt:12,max:16}}]"
    built = counted(
        place,
        *NET,
        "model.dims.batch.max=16",
        "+profile.dims.batch={min:1,opt:4,max:8}",
        further,
        "benchmark.shapes=[min,opt,max]",
    )
    (variant,) = built.variants
    assert built.code == 0, built.text
    measured = action(variant, "benchmark")["values"]["measurements"]
    points = {row["point"]: row["dims"]["batch"] for row in measured}
    assert points == {"min": 1, "opt": 4, "max": 8, "min 2": 9, "opt 2": 12, "max 2": 16}
    assert {(row["cuda_graph"], row["transfers"]) for row in measured} == {
        (graph, transfers) for graph in (False, True) for transfers in (False, True)
    }


def test_a_plan_says_what_would_run_and_how_trtexec_would(engines: Site) -> None:
    before = noted(engines.place)
    ran: Watched = engines.place.watch("plan", *DIGITS, "++target.workspace_mib=128")
    assert ran.code == 0, ran.text
    assert "trtexec --onnx=model.onnx" in ran.text
    assert "--memPoolSize=workspace:128" in ran.text.replace("\n", "")
    assert ran.heavy == []
    assert noted(engines.place) == before
