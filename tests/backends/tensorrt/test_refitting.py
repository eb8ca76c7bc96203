"""A refitted engine has all new weights, or is built."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from orchestrator.backends.base import Built, Job, Json
from orchestrator.backends.tensorrt.building import build, refit
from orchestrator.backends.tensorrt.options import request
from orchestrator.backends.tensorrt.probe import probe
from orchestrator.backends.tensorrt.refitting import Known, not_replaced
from orchestrator.backends.tensorrt.serving import run
from orchestrator.backends.tensorrt.toolchain import Toolchain
from orchestrator.backends.tensorrt.versions import lowering, parse_version
from orchestrator.config.tensorrt import TensorRTOptions
from orchestrator.graphs import files as onnx_files
from orchestrator.numerics.batches import Batch, write_batches
from tests.backends.tensorrt.standin import command

Array = np.ndarray[Any, Any]
LARGE: Final = onnx_files.INLINE_LIMIT_BYTES // 4 // 8 + 1

# -- what is not replaced --------------------------------------------------------------------------


def save(model: onnx.ModelProto, tree: Path) -> Path:
    tree.mkdir(parents=True)
    onnx_files.save(model, tree)
    return tree


def model(nodes: Sequence[onnx.NodeProto], weights: Mapping[str, Array]) -> onnx.ModelProto:
    """Return ``x`` float32 [n, 4, 8, 8] → ``y``."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", TensorProto.FLOAT, ["n", 4, 8, 8])],
        [value("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def ones(*shape: int) -> Array:
    return np.ones(shape, np.float32)


CONV: Final = helper.make_node("Conv", ["x", "w", "b"], ["y"], name="conv")
UNNAMED: Final = helper.make_node("Conv", ["x", "w", "b"], ["y"])
CONV_WEIGHTS: Final = {"w": ones(4, 4, 1, 1), "b": ones(4)}
ADD: Final = helper.make_node("Add", ["x", "w"], ["y"], name="add")
NORM: Final = helper.make_node("BatchNormalization", ["x", "s", "b", "m", "v"], ["y"], name="bn")
NORM_WEIGHTS: Final = {name: ones(4) for name in "sbmv"}
FILL: Final = [
    helper.make_node("Shape", ["x"], ["shape"]),
    helper.make_node("ConstantOfShape", ["shape"], ["zeros"]),
    helper.make_node("Add", ["x", "zeros"], ["z"]),
    helper.make_node("BatchNormalization", ["z", "s", "b", "m", "v"], ["y"], name="bn"),
]


@pytest.mark.parametrize(
    ("nodes", "weights", "known", "stale"),
    [
        ([CONV], CONV_WEIGHTS, {"weights": ["w", "b"]}, []),
        ([CONV], CONV_WEIGHTS, {"weights": ["w"]}, ["b"]),
        ([CONV], CONV_WEIGHTS, {}, ["b", "w"]),
        ([CONV], CONV_WEIGHTS, {"layers": [["conv", "KERNEL"], ["conv", "BIAS"]]}, []),
        ([CONV], CONV_WEIGHTS, {"layers": [["conv", "KERNEL"], ["b", "BIAS"]]}, ["b"]),
        ([UNNAMED], CONV_WEIGHTS, {"weights": ["b"], "layers": [["node_of_y", "KERNEL"]]}, []),
        ([ADD], {"w": ones(4, 1, 1)}, {"layers": [["w", "CONSTANT"]]}, []),
        ([ADD], {"w": ones(4, 1, 1)}, {"layers": [["w", "KERNEL"]]}, ["w"]),
        ([ADD], {"w": ones(4, 1, 1), "unread": ones(9)}, {"weights": ["w"]}, []),
        ([ADD], {"w": np.ones((), np.float32)}, {}, []),  # a scalar is in the skeleton
        ([NORM], NORM_WEIGHTS, {"weights": ["scale of its own", "shift of its own"]}, []),
        ([NORM], NORM_WEIGHTS, {"weights": ["scale of its own", "s"]}, ["b", "m", "v"]),
        ([NORM], NORM_WEIGHTS, {"layers": [["bn", "SCALE"], ["bn", "SHIFT"]]}, []),
        ([NORM], NORM_WEIGHTS, {"layers": [["bn", "SCALE"]]}, ["b", "m", "s", "v"]),
        (FILL, NORM_WEIGHTS, {"weights": ["one", "two"]}, ["b", "m", "s", "v"]),
        (FILL, NORM_WEIGHTS, {"weights": ["one", "two", "three"]}, []),
    ],
)
def test_what_the_refitter_does_not_know_is_not_replaced(
    nodes: list[onnx.NodeProto],
    weights: Mapping[str, Array],
    known: Json,
    stale: list[str],
    tmp_path: Path,
) -> None:
    tree = save(model(nodes, weights), tmp_path / "tree")
    assert not_replaced(tree, Known.from_json(known)) == stale


def test_large_weights_are_traced_as_well(tmp_path: Path) -> None:
    tree = save(model([ADD], {"w": ones(LARGE, 1, 1, 8)}), tmp_path / "tree")
    assert (tree / "weights").is_dir()
    assert not_replaced(tree, Known.from_json({})) == ["w"]
    assert not_replaced(tree, Known.from_json({"weights": ["w"]})) == []


# -- over the stand-in -----------------------------------------------------------------------------


def refitted(
    version: str, precision: str, root: Path, *, width: int = 8
) -> tuple[Json, Array, Array]:
    """Build ``y = x w`` with one weight and refit with another.

    Returns:
        What the refit says, ``y`` of the engine and ``y`` as the other weight gives it.
    """
    toolchain = Toolchain(command=tuple(command(version=version)))
    wanted = target(version, precision, probe(toolchain, None).seen)
    first, second = (noise(8, width, seed=seed) for seed in (1, 2))
    x = noise(4, 8, seed=3)
    for name in ("base", "engine", "samples"):
        (root / name).mkdir()
    batch = Batch(file="000.npz", point="opt", dims={"n": 4}, offset=0, items=4)
    write_batches(root / "samples", [(batch, {"x": x})])
    narrow = precision == "bf16"

    def job(name: str) -> Job:
        (root / name).mkdir()
        reach = {**toolchain.as_json(), "timing_cache": False}
        return Job(scratch=root / name, log=print, reach=reach)

    base, into = root / "base", root / "engine"
    build(save(product(first, narrow), root / "first"), base, wanted, job("built"), Built())
    tree = save(product(second, narrow), root / "second")
    found = refit(tree, base, into, wanted, job("refit"), Built())
    ((_, outputs),) = run(into, root / "samples", ["y"], wanted, job("run"))
    return found, outputs["y"], x @ second


def product(weight: Array, narrow: bool) -> onnx.ModelProto:
    """Return ``x`` float32 [n, 8] → ``y`` = x w, computed in bf16 where it is *narrow*."""
    value, kind = helper.make_tensor_value_info, TensorProto.FLOAT
    wide, kind = kind, TensorProto.BFLOAT16 if narrow else kind
    stored = numpy_helper.from_array(weight, "w")
    if narrow:
        stored = helper.make_tensor("w", kind, weight.shape, weight.ravel().tolist())
    nodes = [
        helper.make_node("Cast", ["x"], ["xn"], name="in", to=kind),
        helper.make_node("MatMul", ["xn", "w"], ["yn"], name="matmul"),
        helper.make_node("Cast", ["yn"], ["y"], name="out", to=wide),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", wide, ["n", 8])],
        [value("y", wide, ["n", weight.shape[1]])],
        [stored],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def target(version: str, precision: str, seen: Json) -> Json:
    low, best, high = ([n, 8] for n in (1, 4, 8))
    return {
        "expect": seen,
        "options": request(TensorRTOptions(refit="refit")),
        "word": precision,
        "precision": lowering(precision, parse_version(version), None).request(),
        "profiles": [{"x": {"min": low, "opt": best, "max": high}}],
        "inputs": ["x"],
        "outputs": ["y"],
        "calibrator": None,
        "host_code": False,
    }


def noise(*shape: int, seed: int) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("version", ["8.6.1", "10.7.0"])
def test_known_weights_are_refitted(version: str, tmp_path: Path) -> None:
    found, y, expected = refitted(version, "fp32", tmp_path)
    assert found["refitted"] is True
    assert "known" not in found
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("version", ["8.6.1", "10.7.0"])
def test_weights_beside_the_model_are_refitted(version: str, tmp_path: Path) -> None:
    found, y, expected = refitted(version, "fp32", tmp_path, width=LARGE)
    assert (tmp_path / "second" / "weights").is_dir()
    assert found["refitted"] is True
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)


def test_weights_that_a_refitter_skips_are_built(tmp_path: Path) -> None:
    """The refitter passes over what it does not know, and calls that a success."""
    found, y, expected = refitted("10.7.0", "bf16", tmp_path)
    assert found["refitted"] is False
    assert "does not know 1 of the model's weights: 'w'" in found["reason"]
    np.testing.assert_allclose(y, expected, rtol=5e-2, atol=0.2)
