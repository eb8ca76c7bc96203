"""TensorRT called by hand: what an engine of ours is measured beside.

``python bare.py build|run SPEC.json`` prints one JSON object. It needs tensorrt, numpy and
cuda-python and imports nothing of this project: this is what somebody without it would write.

build: ``onnx``, ``plan``, ``flags`` (builder flags by name), ``tf32``, ``tactic_sources`` (-NAME),
``optimization_level``, ``profile`` {input: [min, opt, max]}. Prints seconds by part.
run: ``plan``, ``inputs`` (an .npz), ``warmup_ms``, ``measure_ms``. Prints the median milliseconds
between two CUDA events around one inference, without transfers, one at a time.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    Json = dict[str, Any]

# This runs under the toolchain's Python, 3.8 or newer, and has paths as text from JSON.
# ruff: noqa: PTH123


def build(spec: Mapping[str, Any]) -> Json:
    """Build ``spec["onnx"]`` into ``spec["plan"]``; return the seconds of each part."""
    seconds: Json = {}
    start = time.perf_counter()

    def part(name: str) -> None:
        nonlocal start
        now = time.perf_counter()
        seconds[name] = round(now - start, 4)
        start = now

    import tensorrt as trt

    part("import")
    logger = trt.Logger(trt.Logger.WARNING)
    trt.init_libnvinfer_plugins(logger, "")
    builder = trt.Builder(logger)
    explicit = 1 << int(trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH)  # until TensorRT 10
    network = builder.create_network(explicit)
    config = builder.create_builder_config()
    parser = trt.OnnxParser(network, logger)
    part("create")
    if not parser.parse_from_file(spec["onnx"]):
        raise RuntimeError(str([parser.get_error(n).desc() for n in range(parser.num_errors)]))
    configure(trt, config, spec)
    profile = builder.create_optimization_profile()
    for name, (low, best, high) in spec["profile"].items():
        profile.set_shape(name, low, best, high)
    config.add_optimization_profile(profile)
    part("parse")
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise RuntimeError("TensorRT built no engine")
    part("build")
    with open(spec["plan"], "wb") as file:
        file.write(plan)
    part("serialize")
    return {"seconds": seconds}


def configure(trt: Any, config: Any, spec: Mapping[str, Any]) -> None:
    """Set the builder's options."""
    for flag in spec["flags"]:
        config.set_flag(getattr(trt.BuilderFlag, flag))
    if not spec["tf32"]:
        config.clear_flag(trt.BuilderFlag.TF32)
    sources = config.get_tactic_sources()
    for name in spec["tactic_sources"]:
        sources &= ~(1 << int(getattr(trt.TacticSource, name.lstrip("-"))))
    config.set_tactic_sources(sources)
    if spec.get("optimization_level") is not None:
        config.builder_optimization_level = spec["optimization_level"]
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED


def run(spec: Mapping[str, Any]) -> Json:
    """Run ``spec["plan"]`` again and again; return the median of the times between two events."""
    import numpy as np
    import tensorrt as trt
    from cuda.bindings import runtime as cuda

    logger = trt.Logger(trt.Logger.WARNING)
    trt.init_libnvinfer_plugins(logger, "")
    runtime = trt.Runtime(logger)
    with open(spec["plan"], "rb") as file:
        engine = runtime.deserialize_cuda_engine(file.read())
    context = engine.create_execution_context()
    (stream,) = checked(cuda.cudaStreamCreateWithFlags(cuda.cudaStreamNonBlocking))
    with np.load(spec["inputs"]) as arrays:
        feeds = {name: arrays[name] for name in arrays.files}
    held: list[Any] = []
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        if name in feeds:
            context.set_input_shape(name, feeds[name].shape)
    context.infer_shapes()
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        dtype = np.dtype(trt.nptype(engine.get_tensor_dtype(name)))
        size = math.prod(tuple(context.get_tensor_shape(name))) * dtype.itemsize
        (address,) = checked(cuda.cudaMalloc(size))
        if name in feeds:
            array = np.ascontiguousarray(feeds[name], dtype)
            held.append(array)
            kind = cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
            checked(cuda.cudaMemcpyAsync(address, array.ctypes.data, size, kind, stream))
        context.set_tensor_address(name, int(address))
    checked(cuda.cudaStreamSynchronize(stream))
    times = timed(cuda, stream, lambda: context.execute_async_v3(int(stream)), spec)
    return {"event_p50_ms": statistics.median(times), "runs": len(times)}


def timed(cuda: Any, stream: Any, once: Any, spec: Mapping[str, Any]) -> list[float]:
    """Return the milliseconds between two events around *once*, for ``measure_ms``."""
    (first,), (last,) = checked(cuda.cudaEventCreate()), checked(cuda.cudaEventCreate())
    times: list[float] = []
    warm = time.perf_counter() + spec["warmup_ms"] / 1e3
    end = warm + spec["measure_ms"] / 1e3
    while time.perf_counter() < end:
        checked(cuda.cudaEventRecord(first, stream))
        once()
        checked(cuda.cudaEventRecord(last, stream))
        checked(cuda.cudaStreamSynchronize(stream))
        if time.perf_counter() >= warm:
            times += checked(cuda.cudaEventElapsedTime(first, last))
    return times


def checked(result: Any) -> list[Any]:
    """Return what a CUDA call gave besides its status."""
    status, *values = result
    if int(status):
        raise RuntimeError(str(status))
    return list(values)


if __name__ == "__main__":
    with open(sys.argv[2], encoding="utf-8") as given:
        specification = json.load(given)
    found = {"build": build, "run": run}[sys.argv[1]](specification)
    print(json.dumps(found), flush=True)
