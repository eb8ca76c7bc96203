"""ONNX Runtime: the same ONNX model in its CUDA provider, or on the CPU."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import onnxruntime as ort

from orchestrator.backends.beside import available
from orchestrator.backends.beside.engine import Calls, UnavailableError
from orchestrator.backends.onnxruntime.errors import translated
from orchestrator.backends.onnxruntime.installed import cpu_target
from orchestrator.backends.onnxruntime.session import Session, load, options
from orchestrator.graphs import files, weights

if TYPE_CHECKING:
    import torch

    from orchestrator.backends.beside.engine import Arrays
    from orchestrator.stages.base import Context

Json = dict[str, Any]

_CUDA: Final = "CUDAExecutionProvider"
_CPU: Final = "CPUExecutionProvider"
_TYPES: Final = {"fp16": "float16", "bf16": "bfloat16"}


class Served:
    """A session with all graph optimizations; see :class:`engine.Engine`.

    It computes in the types of the ONNX file. TF32 is off for fp32 and on for everything else, as
    in the TensorRT engines.
    """

    def __init__(self, ctx: Context) -> None:
        """Load the tree ``ctx.inputs["onnx"]`` on ``ctx.params["device"]``.

        Raises:
            UnavailableError: this ONNX Runtime has no CUDA provider or cannot use it, or the file
                does not hold the precision.
            StageError, WorkerLostError: ONNX Runtime refuses the model.
        """
        params, model = ctx.params, ctx.inputs["onnx"]
        self._uuid: str = params.get("uuid") or ""
        self._on_gpu = params["device"] == "cuda"
        self._tf32 = params["precision"] != "fp32"
        self._types = _stored(model)
        _require_type(self._types, params["precision"])
        self.stream = _stream() if self._on_gpu else None
        self._session = self._load(model, ctx.threads)

    def running(self) -> contextlib.AbstractContextManager[object]:
        """Return a context that does nothing."""
        return contextlib.nullcontext()

    def facts(self) -> Json:
        """Return ``how``, ``types``, ``tf32``, ``versions``, ``providers`` and ``machine``.

        ``types`` is the bytes of floating-point weights by dtype; ``tf32`` is None on the CPU.
        """
        return {
            "how": "session, all graph optimizations, types of the ONNX file",
            "types": self._types,
            "tf32": self._tf32 if self._on_gpu else None,
            "versions": {"onnxruntime": ort.__version__},
            "providers": self._session.get_providers(),
            "machine": self._machine(),
        }

    def calls(self, feeds: Arrays) -> Calls:
        """Return ``session.run`` with NumPy arrays; on a GPU also a run on bound device memory.

        Raises:
            StageError: *feeds* do not fit the model, or a node fails.
        """
        plain = Session(self._session).repeated(feeds)
        if not self._on_gpu:
            return Calls(resident=plain)
        with translated("run the model"):
            return Calls(resident=self._bound(feeds), transferred=plain)

    def _load(self, model: Path, threads: int) -> ort.InferenceSession:
        if self._on_gpu and _CUDA not in ort.get_available_providers():
            raise UnavailableError(
                f"ONNX Runtime {ort.__version__} here has no CUDA provider; onnxruntime-gpu has it"
            )
        chosen = options("all", threads)
        chosen.use_deterministic_compute = False  # nothing is compared: as fast as it can
        # `load` knows how our trees are linked; for CUDA the session is then made again.
        session = load(model, chosen)
        if self._on_gpu:
            ort.preload_dlls()  # CUDA's libraries from Python packages, where they are in such
            with translated("load the model for CUDA"):
                session.set_providers([(_CUDA, self._provider_options()), _CPU])
            session.disable_fallback()  # to the CPU, in silence
            self._require_cuda(session)
        return session

    def _provider_options(self) -> dict[str, str]:
        found = {"device_id": "0", "use_tf32": "1" if self._tf32 else "0"}
        if self.stream is not None:
            found["user_compute_stream"] = str(self.stream.cuda_stream)
        return found

    def _require_cuda(self, session: ort.InferenceSession) -> None:
        """Check that the session got the provider, and the provider its option.

        Raises:
            UnavailableError: it runs on the CPU: ONNX Runtime only logs that.
        """
        if session.get_providers()[0] != _CUDA:
            where = f"the GPU {self._uuid}" if self._uuid else "a GPU"
            raise UnavailableError(
                f"ONNX Runtime {ort.__version__} cannot use {where}: its CUDA provider did not "
                "load; the action's log says which library or device is missing"
            )
        got = session.get_provider_options()[_CUDA].get("use_tf32", "unset")
        if (got.lower() in ("1", "true")) != self._tf32:
            raise UnavailableError(f"ONNX Runtime {ort.__version__} left use_tf32 at {got}")

    def _bound(self, feeds: Arrays) -> Callable[[], object]:
        """Return a run whose inputs and outputs are in device memory, and stay there."""
        session, run_options = self._session, ort.RunOptions()
        if self.stream is not None:  # otherwise a run waits for itself
            run_options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        inputs = {
            name: ort.OrtValue.ortvalue_from_numpy(array, "cuda", 0)
            for name, array in feeds.items()
        }
        names = [output.name for output in session.get_outputs()]
        first = session.io_binding()
        for name, value in inputs.items():
            first.bind_ortvalue_input(name, value)
        for name in names:
            first.bind_output(name, "cuda", 0)
        session.run_with_iobinding(first)
        binding = session.io_binding()
        for name, value in inputs.items():
            binding.bind_ortvalue_input(name, value)
        for name, value in zip(names, first.get_outputs(), strict=True):
            binding.bind_ortvalue_output(name, value)
        run = partial(session.run_with_iobinding, binding, run_options)
        run()
        return run

    def _machine(self) -> Json:
        if not self._on_gpu:
            return cpu_target()
        if self.stream is None:
            return {"uuid": self._uuid}
        from orchestrator.backends.beside import cuda

        return cuda.machine()


def import_cuda() -> None:
    """Import PyTorch where it is a build for CUDA: it has events, and brings CUDA's libraries."""
    if available("torch"):
        importlib.import_module("torch")


def _stream() -> torch.cuda.Stream | None:
    """Return a stream of PyTorch's, whose events time the runs; None where PyTorch has no CUDA."""
    found = sys.modules.get("torch")
    if found is None or not found.cuda.is_available():
        return None
    stream: torch.cuda.Stream = found.cuda.Stream()
    return stream


def _stored(model: Path) -> dict[str, int]:
    """Return the bytes of floating-point weights by dtype."""
    found: Counter[str] = Counter()
    for tensor in files.tensors(files.load(model, weights=False)):
        dtype = weights.dtype_name(tensor.data_type)
        if "float" in dtype:
            found[dtype] += weights.nbytes(tensor)
    return dict(sorted(found.items()))


def _require_type(types: dict[str, int], precision: str) -> None:
    """Check that a file with weights of *types* computes in *precision*.

    Raises:
        UnavailableError: it holds nothing of that type.
    """
    wanted = _TYPES.get(precision)
    if wanted is not None and wanted not in types:
        raise UnavailableError(
            f"ONNX Runtime computes in the types of the ONNX file, and this one holds no {wanted}: "
            f"its weights are {', '.join(types) or 'not floating-point'}"
        )
