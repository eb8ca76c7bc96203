"""The worker's engine on the stand-in: profiles, CUDA graphs, and what is left when it ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest

from tests.backends.tensorrt.standin import HERE, REPOSITORY

Found = dict[str, Any]

#: Runs under the stand-in, in a process of its own; prints one JSON object.
PROGRAM: Final = """
import io, json, sys
import numpy as np, onnx
from onnx import TensorProto, helper
from orchestrator.backends.tensorrt import worker
from tests.backends.tensorrt.standin import cuda_runtime as gpu

folder, sizes = sys.argv[1], ["n", 4]
graph = helper.make_graph(
    [helper.make_node("Add", ["x", "x"], ["y"])], "g",
    [helper.make_tensor_value_info("x", TensorProto.FLOAT, sizes)],
    [helper.make_tensor_value_info("y", TensorProto.FLOAT, sizes)],
)
opset = [helper.make_opsetid("", 17)]
onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), folder + "/model.onnx")

def profile(low, opt, high):
    return {"x": {"min": [low, 4], "opt": [opt, 4], "max": [high, 4]}}

def x(rows, value=1.0):
    return {"x": np.full((rows, 4), value, np.float32)}

def run(engine):
    engine.upload(); engine.enqueue(); engine.download(); engine.synchronize()
    return engine.outputs()["y"]

channel = worker.Channel(io.BytesIO(), lambda: None)
built = worker.perform(folder, {
    "op": "build", "onnx": "model.onnx", "plan": "plan",
    "precision": {"mode": "weak", "flags": [], "tf32": False},
    "profiles": [profile(1, 8, 32), profile(1, 1, 2)],
}, channel)
assert built["ok"], built
session = worker.Session(folder, {"op": "run", "plan": "plan", "batches": []}, channel)
session.open()
session.prepare()
api, found = session.cuda.api, {}

with worker.Engine(session) as engine:
    found["profiles"] = []
    for rows in (1, 2, 3, 8, 32):
        engine.bind(x(rows))
        found["profiles"].append(engine.context.active_optimization_profile)

with worker.Engine(session) as engine:
    engine.bind(x(4))
    assert engine.capture() == ""
    engine.bind(x(8, 5.0))
    found["after another shape"] = run(engine).tolist()
    for _ in range(5):
        engine({**x(4), "other": np.zeros(1)})
    found["warnings"] = session.log.warnings()

def fails(*_):
    return gpu.cudaError_t.cudaErrorMemoryAllocation, 0

before = len(gpu._graphs)
with worker.Engine(session) as engine:
    engine.bind(x(4))
    kept, api.cudaGraphInstantiateWithFlags = api.cudaGraphInstantiateWithFlags, fails
    found["note"] = engine.capture()
    api.cudaGraphInstantiateWithFlags = kept
    found["without a graph"] = run(engine).tolist()
found["graphs left"] = len(gpu._graphs) - before

before, kept = len(gpu._memory), (api.cudaFree, api.cudaFreeHost)
try:
    with worker.Engine(session) as engine:
        engine(x(4))
        held = len(gpu._memory) - before
        api.cudaFree = lambda address: (gpu.cudaError_t.cudaErrorLaunchFailure,)
        api.cudaFreeHost = kept[1]
        raise worker.Failure("device", "the first failure")
except worker.Failure as exc:
    found["told"] = exc.message
api.cudaFree = kept[0]
found["held"], found["still held"] = held, len(gpu._memory) - before

before, streams, kept = len(gpu._memory), [], api.cudaStreamDestroy
engine = worker.Engine(session)
engine(x(4))
api.cudaStreamDestroy = lambda stream: streams.append(stream) or kept(stream)
engine.close()
engine.close()
found["left after two ends"] = len(gpu._memory) - before
found["streams destroyed"] = len(streams)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    path = os.pathsep.join([str(HERE / "site"), str(REPOSITORY)])
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path_factory.mktemp("engine"))],
        env={**os.environ, "PYTHONPATH": path},
        cwd=Path("/"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    values: Found = json.loads(ran.stdout.splitlines()[-1])
    return values


def test_the_profile_that_fits_best_is_chosen(found: Found) -> None:
    assert found["profiles"] == [1, 1, 0, 0, 0]


def test_a_graph_of_other_shapes_is_not_launched(found: Found) -> None:
    assert found["after another shape"] == [[10.0] * 4] * 8


def test_an_input_that_the_engine_lacks_is_said_once(found: Found) -> None:
    assert found["warnings"] == ["the engine has no input 'other': not fed"]


def test_a_graph_that_cannot_be_made_leaves_none(found: Found) -> None:
    assert "cudaErrorMemoryAllocation" in found["note"]
    assert found["without a graph"] == [[2.0] * 4] * 4
    assert found["graphs left"] == 0


def test_a_device_that_frees_nothing_hides_no_failure(found: Found) -> None:
    assert found["told"] == "the first failure"
    assert found["held"] == 4, "x and y, on the device and pinned"
    assert found["still held"] == 2, "what is pinned can be freed"


def test_an_engine_may_be_closed_twice(found: Found) -> None:
    assert found["left after two ends"] == 0
    assert found["streams destroyed"] == 1
