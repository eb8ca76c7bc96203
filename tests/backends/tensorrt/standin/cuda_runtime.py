"""``cuda.bindings.runtime`` as far as the worker uses it: device memory is the host's.

Addresses are checked: a copy or a run beyond what was allocated is an error, as is freeing twice.
A stream runs what it is given at once; while it captures, it records.
"""

# CUDA's own names.
# ruff: noqa: N801, N802, N815, N816

from __future__ import annotations

import ctypes
import enum
import itertools
import time
import uuid
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, Final

from tests.backends.tensorrt.standin.settings import device, devices, fault, use


class cudaError_t(enum.IntEnum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorInsufficientDriver = 35
    cudaErrorNoDevice = 100
    cudaErrorLaunchFailure = 719


class cudaMemcpyKind(enum.IntEnum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2


class cudaStreamCaptureMode(enum.IntEnum):
    cudaStreamCaptureModeThreadLocal = 1


class cudaDeviceAttr(enum.Enum):
    cudaDevAttrComputeCapabilityMajor = "major"
    cudaDevAttrComputeCapabilityMinor = "minor"
    cudaDevAttrMultiProcessorCount = "sms"
    cudaDevAttrGlobalMemoryBusWidth = "bus_bits"
    cudaDevAttrL2CacheSize = "l2_bytes"
    cudaDevAttrMaxSharedMemoryPerBlock = "shared_per_block"
    cudaDevAttrMaxSharedMemoryPerMultiprocessor = "shared_per_sm"
    cudaDevAttrIntegrated = "integrated"
    cudaDevAttrEccEnabled = "ecc"


Done = tuple[cudaError_t]
Handle = tuple[cudaError_t, int]
Actions = list[Callable[[], bool]]
cudaStreamNonBlocking: Final = 1
_OK: Final = cudaError_t.cudaSuccess
_WRONG: Final = cudaError_t.cudaErrorInvalidValue
_memory: dict[int, Any] = {}
_handles = itertools.count(1)
_recording: dict[int, Actions] = {}
_graphs: dict[int, Actions] = {}
_events: dict[int, int] = {}


def room(address: int) -> int:
    """Return the bytes that were allocated at *address*; 0 for none."""
    return ctypes.sizeof(_memory[address]) if address in _memory else 0


def submit(stream: int, action: Callable[[], bool]) -> bool:
    """Run *action*, or record it; return whether it was done."""
    if stream in _recording:
        _recording[stream].append(action)
        return True
    return action()


def _nothing(*arguments: Any) -> Done:
    return (_OK,)


cudaStreamSynchronize = cudaStreamDestroy = cudaGetLastError = _nothing


def cudaGetDeviceCount() -> Handle:
    if fault("no_driver") is not None:
        return cudaError_t.cudaErrorInsufficientDriver, 0
    count = len(devices())
    return (_OK, count) if count else (cudaError_t.cudaErrorNoDevice, 0)


def cudaSetDevice(number: int) -> Done:
    use(number)
    return (_OK,)


def cudaRuntimeGetVersion() -> Handle:
    return _OK, 12040


cudaDriverGetVersion = cudaRuntimeGetVersion


def cudaGetDeviceProperties(number: int) -> tuple[cudaError_t, Any]:
    found = devices()[number]
    return _OK, SimpleNamespace(
        name=found["name"].encode() + b"\0",
        totalGlobalMem=found["memory_bytes"],
        uuid=SimpleNamespace(bytes=uuid.UUID(found["uuid"].removeprefix("GPU-")).bytes),
    )


def cudaDeviceGetAttribute(attribute: cudaDeviceAttr, number: int) -> Handle:
    found = devices()[number]
    major, minor = found["compute_capability"].split(".")
    return _OK, int({"major": major, "minor": minor, **found}.get(attribute.value, 0))


def cudaMalloc(size: int) -> Handle:
    if size > device()["memory_bytes"]:
        return cudaError_t.cudaErrorMemoryAllocation, 0
    block = (ctypes.c_uint8 * size)()
    address = ctypes.addressof(block)
    _memory[address] = block
    return _OK, address


def cudaFree(address: int) -> Done:
    return (_OK if _memory.pop(address, None) is not None else _WRONG,)


cudaMallocHost, cudaFreeHost = cudaMalloc, cudaFree


def cudaMemcpy(to: int, source: int, size: int, kind: int) -> Done:
    on_device = to if kind == cudaMemcpyKind.cudaMemcpyHostToDevice else source
    if size > room(on_device):
        return (_WRONG,)
    ctypes.memmove(to, source, size)
    return (_OK,)


def cudaMemcpyAsync(to: int, source: int, size: int, kind: int, stream: int) -> Done:
    done = submit(stream, lambda: cudaMemcpy(to, source, size, kind) == (_OK,))
    return (_OK if done else _WRONG,)


def cudaStreamCreateWithFlags(flags: int) -> Handle:
    return _OK, next(_handles)


def cudaStreamBeginCapture(stream: int, mode: int) -> Done:
    _recording[stream] = []
    return (_OK,)


def _graph(actions: Actions) -> Handle:
    handle = next(_handles)
    _graphs[handle] = list(actions)
    return _OK, handle


def cudaStreamEndCapture(stream: int) -> Handle:
    return _graph(_recording.pop(stream))


def cudaGraphInstantiateWithFlags(graph: int, flags: int) -> Handle:
    return _graph(_graphs[graph])


def cudaGraphLaunch(graph: int, stream: int) -> Done:
    done = [submit(stream, action) for action in _graphs[graph]]
    return (_OK if all(done) else cudaError_t.cudaErrorLaunchFailure,)


def cudaGraphDestroy(graph: int) -> Done:
    return (_OK if _graphs.pop(graph, None) is not None else _WRONG,)


cudaGraphExecDestroy = cudaGraphDestroy


def cudaEventCreate() -> Handle:
    return _OK, next(_handles)


def cudaEventRecord(event: int, stream: int) -> Done:
    _events[event] = time.perf_counter_ns()
    return (_OK,)


def cudaEventElapsedTime(first: int, last: int) -> tuple[cudaError_t, float]:
    return _OK, (_events[last] - _events[first]) / 1e6


def cudaEventDestroy(event: int) -> Done:
    return (_OK if _events.pop(event, None) is not None else _WRONG,)
