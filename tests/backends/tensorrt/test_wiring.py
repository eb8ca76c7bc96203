"""Between planner, worker and toolchain: what must not be mixed up, over the stand-in."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from orchestrator.backends.base import Built, Job, Json
from orchestrator.backends.tensorrt.building import build, refit
from orchestrator.backends.tensorrt.failures import ToolchainError
from orchestrator.backends.tensorrt.options import request
from orchestrator.backends.tensorrt.plan_file import NAME
from orchestrator.backends.tensorrt.probe import gpu_of, probe
from orchestrator.backends.tensorrt.serving import benchmark, run
from orchestrator.backends.tensorrt.toolchain import Toolchain
from orchestrator.backends.tensorrt.versions import lowering, parse_version
from orchestrator.config.tensorrt import TensorRTOptions
from orchestrator.graphs import files as onnx_files
from orchestrator.numerics.batches import Batch, write_batches
from orchestrator.stages.base import Context
from orchestrator.stages.skeleton import STAGE as SKELETON
from orchestrator.store.index import Index
from tests.backends import nets
from tests.backends.tensorrt.standin import command
from tests.backends.tensorrt.standin.nvml import with_nvml
from tests.backends.tensorrt.standin.project import events, make_project
from tests.command import Workplace

Array = np.ndarray[Any, Any]
LARGE: Final = onnx_files.INLINE_LIMIT_BYTES // 4 // 64 + 1
TRT86: Final = Toolchain(name="trt86", command=tuple(command(version="8.6.1")))


SETTINGS: Final = {
    "shapes": ["opt"], "warmup_ms": 1, "measure_ms": 1, "min_runs": 2, "cuda_graph": False,
    "transfers": False,
}  # fmt: skip


# -- skeletons -------------------------------------------------------------------------------------


def model(
    nodes: list[onnx.NodeProto], weights: Mapping[str, Array], *, width: int = 8
) -> onnx.ModelProto:
    """Return ``x`` float32 [n, width], ``k`` int64 [2] → ``y``, with what *nodes* read of them."""
    read = {name for node in nodes for name in node.input}
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", width]),
        helper.make_tensor_value_info("k", TensorProto.INT64, [2]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [value for value in inputs if value.name in read],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in weights.items() if name in read],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def skeleton(model: onnx.ModelProto, root: Path) -> tuple[bytes, int]:
    """Return the bytes of a model's skeleton, and how many weights were left out of it."""
    tree, out = root / "tree", root / "out"
    for folder in (tree, out):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    onnx_files.save(model, tree)
    found = SKELETON.run(
        Context(
            params={},
            inputs={"onnx": tree},
            outputs={"skeleton": out},
            scratch=root,
            observe=None,  # type: ignore[arg-type]  # no user code
            progress=lambda done, text="": None,
            log=print,
        )
    )
    return (out / "model.onnx").read_bytes(), found["weights"]


def floats(*values: float) -> Array:
    return np.array(values, np.float32)


def scalar(value: float) -> Array:
    return np.array(value, np.float32)


def noise(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def node(op: str, inputs: str, output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), [output], name=f"{op} {output}", **attributes)


TO_THE_SIZES: Final = [
    node("Shape", "x", "shape"),
    node("Cast", "shape", "sizes", to=TensorProto.FLOAT),
    node("Mul", "sizes v", "scaled"),
    node("Cast", "scaled", "whole", to=TensorProto.INT64),
    helper.make_node("Resize", ["x", "", "", "whole"], ["y"]),
]
#: Nodes that take the constant ``v``, and two values of it that are other engines.
DECIDES: Final[Mapping[str, tuple[list[onnx.NodeProto], Array, Array]]] = {
    "sizes of a resize": (TO_THE_SIZES, floats(1, 2), floats(1, 3)),
    "sizes that are fed": (
        [node("Cast", "k", "sizes", to=TensorProto.FLOAT), *TO_THE_SIZES[2:]],
        floats(1, 2),
        floats(1, 3),
    ),
    "limit of a clip": ([node("Clip", "x v", "y")], scalar(0), scalar(-1)),
    "scalar": ([node("Mul", "x v", "y")], scalar(2), scalar(3)),
    "also reshaped": (
        [node("Add", "x v", "a"), node("Reshape", "v s", "b"), node("Mul", "a b", "y")],
        noise(1, 8),
        noise(1, 8, seed=1),
    ),
    "behind a transpose": (
        [node("Transpose", "v", "t"), node("MatMul", "x t", "y")],
        noise(4, 8),
        noise(4, 8, seed=1),
    ),
    "indices": ([node("Gather", "x v", "y", axis=1)], np.array([0, 1]), np.array([1, 0])),
    "large, behind a transpose": (
        [node("Transpose", "v", "t"), node("MatMul", "x t", "y")],
        noise(LARGE, 64),
        noise(LARGE, 64, seed=1),
    ),
    "large indices": (
        [node("Gather", "x v", "y", axis=1), node("MatMul", "x w", "z")],
        np.arange(1000) % 8,
        np.arange(1000) % 7,
    ),
}


@pytest.mark.parametrize("case", DECIDES)
def test_what_decides_an_engine_is_in_its_skeleton(case: str, tmp_path: Path) -> None:
    nodes, first, second = DECIDES[case]
    other = {"s": np.array([1, 8]), "w": noise(64, LARGE)}
    width = 64 if "large" in case else 8
    skeletons = [
        skeleton(model(nodes, {"v": value, **other}, width=width), tmp_path)[0]
        for value in (first, second)
    ]
    assert skeletons[0] != skeletons[1]


WEIGHTS: Final = {
    "product": [node("MatMul", "x v", "y")],
    "bias": [node("Add", "x v", "y")],
    "table with constant indices": [node("Gather", "v i", "e"), node("Add", "x e", "y")],
    "of two layers": [node("MatMul", "x v", "a"), node("MatMul", "a v", "y")],
    "behind whole numbers": [
        node("Cast", "k", "f", to=TensorProto.FLOAT),
        node("Gemm", "f w", "g"),
        node("Add", "g v", "y"),
    ],
}


@pytest.mark.parametrize("case", WEIGHTS)
def test_weights_are_in_no_skeleton(case: str, tmp_path: Path) -> None:
    indices = np.array([0, 3])
    found = [
        skeleton(
            model(
                WEIGHTS[case],
                {"v": noise(8, 8, seed=seed), "w": noise(1, 8, seed=seed), "i": indices},
            ),
            tmp_path,
        )
        for seed in range(2)
    ]
    assert found[0] == found[1]
    assert found[0][1] >= 1


def test_where_large_weights_lie_is_in_no_skeleton(tmp_path: Path) -> None:
    """They are sorted by digest: the first value lies before its neighbour, the second behind."""
    nodes = [node("Transpose", "t", "u"), node("MatMul", "x u", "a"), node("MatMul", "x v", "y")]
    found = [
        skeleton(
            model(
                nodes,
                {"v": np.full((64, LARGE), value, np.float32), "t": noise(1000, 64)},
                width=64,
            ),
            tmp_path,
        )
        for value in (0, 6)
    ]
    assert found[0] == found[1]


# -- operations ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def seen() -> Json:
    """The identity of the stand-in."""
    return probe(TRT86, None).seen


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return nets.save(nets.matmul_net(), tmp_path_factory.mktemp("net") / "tree")


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One batch of four items."""
    root = tmp_path_factory.mktemp("samples")
    batch = Batch(file="000.npz", point="opt", dims={"n": 4}, offset=0, items=4)
    write_batches(root, [(batch, {"x": noise(4, 8)})])
    return root


def job(root: Path, **more: Any) -> Job:
    """Return a job of the stand-in with a scratch directory of its own."""
    scratch = root / f"scratch{len(list(root.glob('scratch*')))}"
    scratch.mkdir()
    reach = {**TRT86.as_json(), "timing_cache": False}
    return Job(scratch=scratch, log=print, reach=reach, **more)


def target(seen: Json, precision: str = "fp32", **options: Any) -> Json:
    """Return the parameters of a build on *seen*."""
    calibrator: Any = "entropy2" if precision == "int8" else None
    low, best, high = ([n, 8] for n in (1, 4, 8))
    return {
        "expect": seen,
        "options": request(TensorRTOptions(**options)),
        "word": precision,
        "precision": lowering(precision, parse_version("8.6.1"), calibrator).request(),
        "profiles": [{"x": {"min": low, "opt": best, "max": high}}],
        "inputs": ["x"],
        "outputs": ["y"],
        "calibrator": calibrator,
        "host_code": False,
    }


def library(root: Path, name: str, source: str, *words: str) -> Path:
    """Compile a shared library.

    It skips where there is no compiler.
    """
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler to make a plugin library with")
    root.mkdir(exist_ok=True)
    path = root / name
    line = [compiler, "-shared", "-fPIC", "-x", "c", "-", "-o", str(path), *words]
    subprocess.run(line, input=source, text=True, check=True)
    return path


def empty(root: Path, name: str = "engine") -> Path:
    path = root / name
    path.mkdir()
    return path


def test_a_plugin_finds_what_lies_beside_it(tmp_path: Path, net: Path, seen: Json) -> None:
    home = tmp_path / "plugins"
    library(home, "libdependency.so", "int one(void) { return 1; }")
    words = (f"-L{home}", "-ldependency", "-Wl,-rpath,$ORIGIN")
    source = "int one(void); int two(void) { return one() + 1; }"
    plugin = library(home, "libplugin.so", source, *words)

    into = empty(tmp_path)
    build(net, into, target(seen), job(tmp_path, files={"plugin.0": plugin}), Built())
    assert list(json.loads((into / f"{NAME}.json").read_text())["plugins"]) == ["libplugin.so"]


def test_a_parser_error_names_the_module(tmp_path: Path, seen: Json) -> None:
    tree, provenance = tmp_path / "tree", empty(tmp_path, "provenance")
    proto = nets.matmul_net()
    proto.graph.node.append(helper.make_node("Odd", ["h"], ["z"], name="odd", domain="mine"))
    proto.opset_import.append(helper.make_opsetid("mine", 1))
    onnx_files.save(proto, empty(tmp_path, tree.name))
    where = {"op": "", "module": "head.odd", "source": "model.py:12"}
    (provenance / "provenance.json").write_text(json.dumps({"odd": where}))

    with pytest.raises(ToolchainError) as caught:
        build(tree, empty(tmp_path), target(seen), job(tmp_path), Built(provenance=provenance))
    assert "node 'odd' (Odd): UNSUPPORTED_NODE" in caught.value.message
    assert "came from module 'head.odd' (model.py:12)" in caught.value.message


def test_a_calibration_table_is_of_its_plugins_and_parser(
    tmp_path: Path, net: Path, samples: Path, seen: Json
) -> None:
    """A table of another plugin's activations has the wrong ranges."""
    plugins = [
        library(tmp_path / f"{n}", "libp.so", f"int n(void) {{ return {n}; }}") for n in "12"
    ]

    def batches(plugin: Path, **options: Any) -> int:
        into = empty(tmp_path, f"engine{len(list(tmp_path.glob('engine*')))}")
        files = {"plugin.0": plugin}
        its = job(tmp_path, files=files, shared=tmp_path / "shared")
        found = build(net, into, target(seen, "int8", **options), its, Built(samples=samples))
        return int(found["calibration_batches"])

    assert batches(plugins[0]) == 1
    assert batches(plugins[0], workspace_mib=64) == 0, "the table is used again"
    assert batches(plugins[1]) == 1
    assert batches(plugins[0], native_instancenorm=True) == 1


def test_a_measurement_is_of_the_gpu_it_is_called_by(
    tmp_path: Path, net: Path, samples: Path, seen: Json
) -> None:
    into, wanted = empty(tmp_path), target(seen)
    build(net, into, wanted, job(tmp_path), Built())
    known = {**wanted, "uuid": gpu_of(seen)}
    found = benchmark(into, samples, SETTINGS, known, job(tmp_path))
    assert found["p50_ms"] > 0
    assert "notes" not in found
    with pytest.raises(ToolchainError, match="and planned for GPU-other") as caught:
        benchmark(into, samples, SETTINGS, {**wanted, "uuid": "GPU-other"}, job(tmp_path))
    assert caught.value.kind == "mismatch", "so that the remembered probe is dropped"


def test_who_else_used_the_gpu_is_noted(
    tmp_path: Path, net: Path, samples: Path, seen: Json
) -> None:
    """Through a library that has NVML's own structures."""
    words = with_nvml(tmp_path, "4711:python;4711:python,4712,self")
    reach = {**Toolchain(command=tuple(words)).as_json(), "timing_cache": False}
    into, wanted = empty(tmp_path), target(seen)

    built = build(net, into, wanted, replace(job(tmp_path), reach=reach), Built())
    measured = benchmark(into, samples, SETTINGS, wanted, replace(job(tmp_path), reach=reach))

    others = "2 other processes used the GPU, 4711 (python), 4712"
    assert built["notes"] == [f"{others}: TensorRT may have chosen slower kernels"]
    assert measured["notes"] == [f"{others}: what was measured may be too slow"]
    assert measured["neighbours"] == [{"pid": 4711, "name": "python"}, {"pid": 4712, "name": ""}]
    assert measured["driver"] == "580.95.05"


def test_what_cannot_be_refitted_is_built(tmp_path: Path, samples: Path, seen: Json) -> None:
    """A node that is called as its weight is: 8.6 tells layers by their names."""
    proto = nets.matmul_net()
    proto.graph.node[0].name = "w"
    base, wanted = empty(tmp_path, "base"), target(seen, refit="refit")
    build(nets.save(proto, tmp_path / "first"), base, wanted, job(tmp_path), Built())
    (weight,) = proto.graph.initializer
    weight.CopyFrom(numpy_helper.from_array(noise(8, 8, seed=5), "w"))
    tree, into = nets.save(proto, tmp_path / "second"), empty(tmp_path)

    found = refit(tree, base, into, wanted, job(tmp_path), Built())

    assert found["refitted"] is False
    assert "layer 'w'" in found["reason"]
    ((_, outputs),) = run(into, samples, ["y"], wanted, job(tmp_path))
    expected = np.maximum(noise(4, 8) @ noise(8, 8, seed=5), 0)
    np.testing.assert_allclose(outputs["y"], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_two_weights_in_one_sweep_share_one_build(tmp_path: Path) -> None:
    place = Workplace.at(tmp_path)
    make_project(place.directory)
    conf = place.directory / "conf/model"
    text = (conf / "net.yaml").read_text()
    (conf / "other.yaml").write_text(text.replace("net.onnx", "other.onnx"))
    proto = onnx.load(place.directory / "net.onnx")
    for weight in proto.graph.initializer:
        array = numpy_helper.to_array(weight) * np.float32(1.25)
        weight.CopyFrom(numpy_helper.from_array(array, weight.name))
    onnx.save(proto, place.directory / "other.onnx")

    log = place.directory / "events"
    words = ("-m", "target=tensorrt", "toolchain=trt86", "model=net,other", "benchmark=none")
    built = place.build(*words, "target.reuse=true", env={"STANDIN_COUNT": str(log)})

    assert built.code == 0, built.text
    done = [one["event"] for one in events(log) if one["event"] in ("built", "refit")]
    assert done == ["built", "refit", "refit"]


# -- probes ----------------------------------------------------------------------------------------


def test_a_secret_in_a_command_is_not_stored(tmp_path: Path) -> None:
    wrapper = tmp_path / "wrapper.sh"
    wrapper.write_text(f'#!/bin/sh\nshift\nexec {" ".join(TRT86.words)} "$@"\n')
    wrapper.chmod(0o755)
    index = Index(tmp_path / "index")
    toolchain = Toolchain(command=(str(wrapper), "--token=hush/hush-4711"))
    assert probe(toolchain, index).seen["tensorrt"] == "8.6.1"
    index.close()
    stored = b"".join(path.read_bytes() for path in (tmp_path / "index").iterdir())
    assert b"tensorrt-probe" in stored
    assert b"hush-4711" not in stored


def test_containers_elsewhere_are_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = Path(__file__).parent / "data"
    monkeypatch.setenv("PATH", str(data), prepend=":")
    monkeypatch.setenv("PYTHONPATH", TRT86.words[1].partition("=")[2])
    monkeypatch.setenv("STANDIN_COUNT", str(tmp_path / "events"))
    index = Index(tmp_path / "index")
    docker = Toolchain(command=("docker", "run", "-i", "IMAGE", sys.executable))
    for host in ("here", "here", "there", "here"):
        monkeypatch.setenv("DOCKER_HOST", host)
        probe(docker, index)
    index.close()
    assert len((tmp_path / "events").read_text().splitlines()) == 2
