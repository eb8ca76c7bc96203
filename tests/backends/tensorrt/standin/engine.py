"""``Runtime``, ``ICudaEngine``, execution contexts and the inspector."""

from __future__ import annotations

import copy
import ctypes
import json
import math
import time
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import onnx
from onnx import numpy_helper

from tests.backends.tensorrt.standin import cuda_runtime as cuda
from tests.backends.tensorrt.standin import enums
from tests.backends.tensorrt.standin.callbacks import ILogger, say
from tests.backends.tensorrt.standin.names import pruned
from tests.backends.tensorrt.standin.plan import Plan, unpack
from tests.backends.tensorrt.standin.settings import fault

Array = np.ndarray[Any, Any]
Shape = tuple[int, ...]
_NUMPY: Final = {
    "FLOAT": "float32", "HALF": "float16", "INT8": "int8", "UINT8": "uint8", "INT32": "int32",
    "INT64": "int64", "BOOL": "bool",
}  # fmt: skip


class Runtime:
    """Deserialises plans."""

    def __init__(self, logger: ILogger) -> None:
        self._logger = logger
        self.engine_host_code_allowed = False

    def deserialize_cuda_engine(self, data: bytes) -> ICudaEngine | None:
        plan = unpack(data)
        if isinstance(plan, str):
            say(self._logger, plan)
            return None
        return ICudaEngine(plan, self._logger)


class SerializationConfig:
    """``ISerializationConfig``: weights are always written."""

    def set_flag(self, flag: Any) -> bool:
        return True

    def clear_flag(self, flag: Any) -> bool:
        return True


@pruned
class ICudaEngine:
    """An engine: a plan, and ONNX Runtime for its model."""

    def __init__(self, plan: Plan, logger: ILogger) -> None:
        self.plan, self.logger = plan, logger
        self.ports = {port["name"]: port for port in plan.settings["ports"]}
        self._session: Any = None

    num_io_tensors = property(lambda self: len(self.ports))
    num_optimization_profiles = property(lambda self: max(1, len(self.plan.settings["profiles"])))
    num_layers = property(lambda self: len(self.plan.settings["layers"]))
    refittable = property(lambda self: self.plan.settings["refittable"])
    device_memory_size = property(lambda self: 1 << 20)
    device_memory_size_v2 = property(lambda self: 1 << 20)

    def get_tensor_name(self, index: int) -> str:
        return str(list(self.ports)[index])

    def get_tensor_format(self, name: str) -> Any:
        return enums.TensorFormat.LINEAR

    def get_tensor_mode(self, name: str) -> Any:
        mode = enums.TensorIOMode
        return mode.INPUT if self.ports[name]["input"] else mode.OUTPUT

    def get_tensor_dtype(self, name: str) -> Any:
        return getattr(enums.DataType, self.ports[name]["dtype"])

    def get_tensor_shape(self, name: str) -> Shape:
        return tuple(self.ports[name]["shape"])

    def get_tensor_location(self, name: str) -> Any:
        return enums.TensorLocation.DEVICE

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[Shape]:
        return [tuple(shape) for shape in self.plan.settings["profiles"][profile][name]]

    def create_execution_context(self) -> ExecutionContext:
        return ExecutionContext(self)

    def create_engine_inspector(self) -> EngineInspector:
        return EngineInspector(self)

    def get_engine_stat(self, stat: Any) -> int:
        return len(self.plan.model)

    def serialize(self) -> bytes:
        return self.plan.pack()

    def create_serialization_config(self) -> SerializationConfig:
        return SerializationConfig()

    def serialize_with_config(self, config: SerializationConfig) -> bytes:
        return self.plan.pack()

    def compute(self, feeds: dict[str, Array]) -> dict[str, Array]:
        """Return the outputs for *feeds*, in the engine's types."""
        if self._session is None:
            import onnxruntime

            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads, options.log_severity_level = 1, 3
            level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL  # others mistake fp8
            options.graph_optimization_level = level
            self._session = onnxruntime.InferenceSession(
                widened(self.plan.model), options, providers=["CPUExecutionProvider"]
            )
        # int64 is int32 in an engine of 8.6, double is float in every engine.
        wanted = {"tensor(int64)": "int64", "tensor(double)": "float64"}
        given = {
            item.name: feeds[item.name].astype(wanted.get(item.type, feeds[item.name].dtype))
            for item in self._session.get_inputs()
        }
        names = [name for name, port in self.ports.items() if not port["input"]]
        found = self._session.run(names, given)
        return {
            name: value.astype(self._dtype(name)) for name, value in zip(names, found, strict=True)
        }

    def _dtype(self, name: str) -> str:
        return _NUMPY[self.ports[name]["dtype"]]

    def view(self, name: str, address: int, shape: Sequence[int]) -> Array:
        """Return device memory as a tensor.

        Raises:
            ValueError: less was allocated there.
        """
        dtype = np.dtype(self._dtype(name))
        size = math.prod(shape) * dtype.itemsize
        if size > cuda.room(address):
            raise ValueError(f"'{name}' {list(shape)} does not fit {cuda.room(address)} bytes")
        raw = (ctypes.c_uint8 * size).from_address(address)
        found: Array = np.ctypeslib.as_array(raw).view(dtype).reshape(shape)
        return found


class ExecutionContext:
    """``IExecutionContext``."""

    def __init__(self, engine: ICudaEngine) -> None:
        self.engine = engine
        self.active_optimization_profile = 0
        self.shapes: dict[str, Shape] = {
            name: tuple(port["shape"]) for name, port in engine.ports.items() if port["input"]
        }
        self.addresses: dict[str, int] = {}
        self.profiler: Any = None
        self._outputs: dict[str, Shape] = {}

    def set_optimization_profile_async(self, index: int, stream: int) -> bool:
        self.active_optimization_profile = index
        return True

    def set_input_shape(self, name: str, shape: Sequence[int]) -> bool:
        profiles = self.engine.plan.settings["profiles"]
        bounds = profiles[self.active_optimization_profile].get(name) if profiles else None
        low, _, high = bounds or (shape, shape, shape)
        if not all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True)):
            text = f"Supplied binding dimension {list(shape)} for '{name}' exceed profile {bounds}"
            say(self.engine.logger, text)
            return False
        self.shapes[name] = tuple(shape)
        return True

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def infer_shapes(self) -> list[str]:
        """Return inputs without a shape; find the outputs' shapes by running on zeros."""
        missing = [name for name, shape in self.shapes.items() if -1 in shape]
        if not missing:
            dtypes = {name: _NUMPY[self.engine.ports[name]["dtype"]] for name in self.shapes}
            zeros = {name: np.zeros(shape, dtypes[name]) for name, shape in self.shapes.items()}
            found = self.engine.compute(zeros)
            self._outputs = {name: array.shape for name, array in found.items()}
        return missing

    def get_tensor_shape(self, name: str) -> Shape:
        return self.shapes.get(name) or self._outputs[name]

    def execute_async_v3(self, stream: int) -> bool:
        if fault("device_lost") is not None:
            text = "Error Code 1: Cuda Runtime (unspecified launch failure)"
            say(self.engine.logger, text)
            return False
        shapes, addresses = dict(self.shapes), dict(self.addresses)
        return cuda.submit(stream, lambda: self._run(shapes, addresses))

    def _run(self, shapes: dict[str, Shape], addresses: dict[str, int]) -> bool:
        start = time.perf_counter()
        engine = self.engine
        feeds = {name: engine.view(name, addresses[name], shape) for name, shape in shapes.items()}
        for at, (name, value) in enumerate(engine.compute(feeds).items()):
            doubled = fault("wrong") is not None and at == 0
            engine.view(name, addresses[name], value.shape)[...] = value * 2 if doubled else value
        if self.profiler is not None:
            names = [layer["Name"] for layer in engine.plan.settings["layers"]]
            for name in names:
                self.profiler.report_layer_time(
                    name, (time.perf_counter() - start) * 1e3 / len(names)
                )
        return True


class EngineInspector:
    """``IEngineInspector``: shows formats of a dynamic engine only to a context with shapes."""

    def __init__(self, engine: ICudaEngine) -> None:
        self._engine = engine
        self.execution_context: ExecutionContext | None = None

    def get_engine_information(self, form: Any) -> str:
        layers = copy.deepcopy(self._engine.plan.settings["layers"])
        context = self.execution_context
        if context is None or any(-1 in shape for shape in context.shapes.values()):
            for tensor in (
                item for layer in layers for item in (*layer["Inputs"], *layer["Outputs"])
            ):
                if -1 in tensor["Dimensions"]:
                    tensor["Format/Datatype"] = "N/A due to dynamic shapes"
        return json.dumps({"Layers": layers, "Bindings": list(self._engine.ports)})


def widened(model: bytes) -> bytes:
    """Return *model* with fp32 in place of bf16, for which ONNX Runtime has no kernels."""
    found = onnx.ModelProto.FromString(model)
    narrow, wide = onnx.TensorProto.BFLOAT16, onnx.TensorProto.FLOAT
    for tensor in found.graph.initializer:
        if tensor.data_type == narrow:
            array = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    for node in found.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.i == narrow:
                attribute.i = wide
    del found.graph.value_info[:]
    return found.SerializeToString()


def with_weights(model: bytes, arrays: dict[str, Array]) -> bytes:
    """Return *model* with other values in its initializers *arrays*."""
    found = onnx.ModelProto.FromString(model)
    for tensor in found.graph.initializer:
        if tensor.name in arrays:
            array = arrays[tensor.name].reshape(tensor.dims)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return found.SerializeToString()
