"""PyTorch eager: the user's module, called as it is, on a GPU or on the CPU."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import torch

from orchestrator.backends.beside import cuda
from orchestrator.backends.beside.engine import Calls, UnavailableError
from orchestrator.backends.onnxruntime.installed import cpu_target
from orchestrator.errors import StageError
from orchestrator.modules import calls as modules
from orchestrator.modules.loading import load_module

if TYPE_CHECKING:
    from orchestrator.backends.beside.engine import Arrays
    from orchestrator.stages.base import Context

Json = dict[str, Any]
Tensors = Mapping[str, torch.Tensor]

_LOWER: Final = {"fp16": torch.float16, "bf16": torch.bfloat16}


class Eager:
    """The module under ``torch.inference_mode``; see :class:`engine.Engine`.

    For fp16 and bf16 the module itself is converted and floating inputs are cast in every run, as
    long as it runs that way; otherwise it runs under autocast. TF32 is off for fp32 and on for
    everything else, as in the TensorRT engines.
    """

    def __init__(self, ctx: Context) -> None:
        """Load the module that ``ctx.params`` describe, on ``ctx.params["device"]``.

        Raises:
            UnavailableError: PyTorch has no such device, or the module does not fit on it.
            StageError: the module cannot be made.
        """
        self._ctx = ctx
        self._device = torch.device(ctx.params["device"])
        self._lower = _LOWER.get(ctx.params["precision"])
        self._converted = self._lower is not None
        self.stream: torch.cuda.Stream | None = None
        if self._device.type == "cuda":
            cuda.require_gpu(ctx.params.get("uuid") or "")
            self.stream = torch.cuda.current_stream()
        self._module = self._placed()

    def running(self) -> contextlib.AbstractContextManager[object]:
        """Return ``torch.inference_mode()``."""
        return torch.inference_mode()

    def facts(self) -> Json:
        """Return ``how``, ``tf32`` (None on the CPU), ``versions`` and ``machine``."""
        on_cpu = {"how": self._how(), "tf32": None, "versions": {"torch": torch.__version__}}
        if self.stream is None:
            return {**on_cpu, "machine": cpu_target()}
        return {**on_cpu, **cuda.facts(), "machine": cuda.machine()}

    def calls(self, feeds: Arrays) -> Calls:
        """Return calls of the module: with inputs on the device, and from and to pinned memory.

        Raises:
            UnavailableError: the module raises on this device, or in this precision.
            StageError: *feeds* are not as declared.
        """
        hosts = modules.input_tensors(feeds, self._ctx.params["inputs"])
        held = {name: tensor.to(self._device) for name, tensor in hosts.items()}
        results = self._first(held)
        forward = self._forward(held)
        if self.stream is None:
            return Calls(resident=forward)
        transferred = self._transferring(forward, hosts, held, results)
        return Calls(resident=forward, transferred=transferred)

    def _placed(self) -> torch.nn.Module:
        module = load_module(self._ctx)
        if self.stream is not None:  # after the factory, which may have set it too
            cuda.set_tf32(self._ctx.params["precision"] != "fp32")
        try:
            return module.to(device=self._device, dtype=self._lower if self._converted else None)
        except RuntimeError as exc:  # out of memory, or a driver that is too old
            raise UnavailableError(
                f"the module cannot be put on {self._device}: {modules.first_lines(exc)}"
            ) from exc

    def _first(self, held: Tensors) -> tuple[torch.Tensor, ...]:
        """Run once, checked; a module that cannot be converted goes on under autocast."""
        try:
            return self._checked(held)
        except StageError as exc:
            if not self._converted:
                raise UnavailableError(exc.message) from exc
            self._ctx.log(f"as {self._lower}: {exc.message}; it is measured under autocast")
        self._converted = False
        self._module = self._placed()
        return self._first(held)

    def _checked(self, held: Tensors) -> tuple[torch.Tensor, ...]:
        with self._casting():
            return modules.call(self._module, self._cast(held), self._ctx.params["outputs"])

    def _forward(self, held: Tensors) -> Callable[[], object]:
        """Return the bare call, as a user writes it."""
        module, keyword = self._module, modules.by_keyword(self._module, list(held))
        if self._lower is None:
            return partial(module, **held) if keyword else partial(module, *held.values())

        def lowered() -> object:
            with self._casting():
                inputs = self._cast(held)
                return module(**inputs) if keyword else module(*inputs.values())

        return lowered

    def _transferring(
        self,
        forward: Callable[[], object],
        hosts: Tensors,
        held: Tensors,
        results: tuple[torch.Tensor, ...],
    ) -> Callable[[], object]:
        names: list[str] = self._ctx.params["outputs"]
        pinned = {name: tensor.pin_memory() for name, tensor in hosts.items()}
        sinks = [torch.empty_like(one, device="cpu", pin_memory=True) for one in results]

        def run() -> None:
            for name, tensor in pinned.items():
                held[name].copy_(tensor, non_blocking=True)
            found = modules.flatten(forward(), names)
            for sink, tensor in zip(sinks, found, strict=True):
                sink.copy_(tensor, non_blocking=True)

        return run

    def _casting(self) -> contextlib.AbstractContextManager[object]:
        if self._lower is None or self._converted:
            return contextlib.nullcontext()
        return torch.autocast(self._device.type, dtype=self._lower)

    def _cast(self, held: Tensors) -> Tensors:
        if self._lower is None or not self._converted:
            return held
        return {
            name: tensor.to(self._lower) if tensor.is_floating_point() else tensor
            for name, tensor in held.items()
        }

    def _how(self) -> str:
        if self._lower is None:
            return "eager, inference_mode"
        lower = str(self._lower).removeprefix("torch.")
        way = f"module.to({lower})" if self._converted else f"autocast({lower})"
        return f"eager, inference_mode, {way}"
