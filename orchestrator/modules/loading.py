"""The user's PyTorch model: made by the factory and filled from the checkpoint."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from orchestrator.errors import StageError, nearest

if TYPE_CHECKING:
    import torch

    from orchestrator.stages.base import Context


def load_module(ctx: Context) -> torch.nn.Module:
    """Return the model that ``factory``, ``args`` and ``checkpoint`` of ``ctx.params`` describe.

    Weights that the checkpoint does not set are the same on every run: the generators of Python,
    NumPy and PyTorch are seeded before the factory is called. The module is in eval mode, on the
    CPU, its parameters need no gradients.

    Raises:
        StageError: when the factory cannot be called or gives no Module, or the checkpoint is
            missing, unsafe or does not fit.
    """
    import torch

    from orchestrator.modules.checkpoints import load_checkpoint

    torch.set_num_threads(ctx.threads)
    function, args = ctx.params["factory"], dict(ctx.params.get("args") or {})
    factory = ctx.observe.importing(function)
    _seed()
    with ctx.observe.calling():
        module = _call_factory(factory, function, args)
    if not isinstance(module, torch.nn.Module):
        raise StageError(
            f"{function} returned {type(module).__name__}, not a torch.nn.Module",
            where="model.factory",
            hint="name a Module class, or a function that returns a Module",
        )
    if ctx.params.get("checkpoint") is not None:
        load_checkpoint(ctx, module)
    return module.cpu().eval().requires_grad_(False)


def _seed() -> None:
    import random

    import numpy as np
    import torch

    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - factories may draw from the legacy generator
    torch.manual_seed(0)


def _call_factory(factory: Any, function: str, args: dict[str, Any]) -> object:
    if not callable(factory):
        raise StageError(
            f"{function} is {type(factory).__name__}, which cannot be called",
            where="model.factory",
            hint="name a Module class, or a function that returns a Module",
        )
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError):
        signature = None  # A callable written in C; calling it tells.
    if signature is not None:
        try:
            signature.bind(**args)
        except TypeError as exc:
            known = [p.name for p in signature.parameters.values()]
            guess = next((g for arg in args if arg not in known and (g := nearest(arg, known))), "")
            raise StageError(
                f"{function}{signature} cannot be called with {sorted(args)}: {exc}",
                where="model.args",
                hint=guess or "set model.args to the factory's keyword arguments",
            ) from exc
    try:
        return factory(**args)
    except StageError:
        raise
    except Exception as exc:
        raise StageError(
            f"{function} raised {type(exc).__name__}: {exc}{_raised_at(exc)}",
            where="model.factory",
            hint="call it in Python with the same model.args and mend it",
        ) from exc


def _raised_at(exc: BaseException) -> str:
    trace = exc.__traceback__
    if trace is None:
        return ""
    while trace.tb_next is not None:
        trace = trace.tb_next
    code = trace.tb_frame.f_code
    return f" ({code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}, in {code.co_name})"
