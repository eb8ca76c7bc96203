"""Calls a module by input names: one way for export and reference, so they see the same model."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from orchestrator.errors import StageError, nearest

if TYPE_CHECKING:
    import numpy as np
    import torch

    Tensors = Mapping[str, torch.Tensor]


def by_keyword(module: torch.nn.Module, names: Sequence[str]) -> bool:
    """Say whether inputs are fed by keyword: when every name is a parameter of ``forward``."""
    parameters = inspect.signature(module.forward).parameters
    return all(
        name in parameters
        and parameters[name].kind
        in (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        for name in names
    )


def call(
    module: torch.nn.Module, inputs: Tensors, outputs: Sequence[str]
) -> tuple[torch.Tensor, ...]:
    """Call *module* on *inputs* and return its tensors in the order of *outputs*.

    Inputs go by keyword when the parameters of ``forward`` bear their names, otherwise by position
    in declared order.

    Raises:
        StageError: when ``forward`` does not take the inputs or raises, or gives another number of
            tensors
            than *outputs* names.
    """
    check_signature(module, list(inputs))
    try:
        if by_keyword(module, list(inputs)):
            result = module(**inputs)
        else:
            result = module(*inputs.values())
    except StageError:
        raise
    except Exception as exc:
        sizes = ", ".join(f"{k} {list(v.shape)} {str(v.dtype)[6:]}" for k, v in inputs.items())
        raise StageError(
            f"the model raised {type(exc).__name__} on inputs {sizes}: {first_lines(exc)}"
            + blame(exc, module),
            where="model.inputs",
            hint="check names, shapes and dtypes under model.inputs and the ranges in model.dims",
        ) from exc
    return flatten(result, outputs)


def check_signature(module: torch.nn.Module, names: Sequence[str]) -> None:
    """Check that ``forward`` can take the inputs *names*.

    Raises:
        StageError: naming the parameters of ``forward``.
    """
    signature = inspect.signature(module.forward)
    try:
        if by_keyword(module, names):
            signature.bind(**dict.fromkeys(names))
        else:
            signature.bind(*names)
    except TypeError as exc:
        known = list(signature.parameters)
        guess = next((g for name in names if name not in known and (g := nearest(name, known))), "")
        raise StageError(
            f"forward({', '.join(known)}) of {type(module).__name__} does not take the inputs "
            f"{list(names)}: {exc}",
            where="model.inputs",
            hint=guess or "declare one input for each parameter of forward that has no default",
        ) from exc


def flatten(result: object, outputs: Sequence[str]) -> tuple[torch.Tensor, ...]:
    """Return the tensors in *result* in the order of *outputs*.

    A mapping or dataclass that has every name of *outputs* is read by name; anything else (a
    tensor,
    nested tuples, lists, mappings, dataclasses) in order, None left out.

    Raises:
        StageError: when it holds something else than tensors, or another number of them.
    """
    import torch

    fields = _fields(result)
    if fields is not None and all(isinstance(fields.get(n), torch.Tensor) for n in outputs):
        return tuple(fields[name] for name in outputs)
    found = list(_tensors(result, ""))
    if len(found) != len(outputs):
        shapes = ", ".join(f"{path or 'tensor'} {list(t.shape)}" for path, t in found)
        raise StageError(
            f"the model returns {len(found)} outputs ({shapes}), but {len(outputs)} are declared: "
            f"{list(outputs)}",
            where="model.outputs",
            hint="name every output, in order",
        )
    return tuple(tensor for _, tensor in found)


def _fields(value: object) -> dict[str, Any] | None:
    if isinstance(value, Mapping):
        return {str(key): item for key, item in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    return None


def _tensors(value: object, path: str) -> Iterator[tuple[str, torch.Tensor]]:
    import torch

    if isinstance(value, torch.Tensor):
        yield path, value
        return
    if value is None:
        return
    fields = _fields(value)
    if fields is None and isinstance(value, tuple | list):
        fields = {str(index): item for index, item in enumerate(value)}
    if fields is None:
        raise StageError(
            f"output {path or '0'} of the model is {type(value).__name__}, not a tensor",
            where="model.factory",
            hint="return tensors only: wrap the model in a Module that does",
        )
    for name, item in fields.items():
        yield from _tensors(item, f"{path}.{name}" if path else name)


@contextlib.contextmanager
def positional(
    module: torch.nn.Module, names: Sequence[str], outputs: Sequence[str]
) -> Iterator[torch.nn.Module]:
    """Make ``module(*tensors)``, tensors in the order of *names*, return a flat tuple of tensors.

    Exporters see one calling convention and no dicts. ``forward`` is replaced on the instance, not
    by a wrapper module, so module paths and parameter names stay the user's own.
    """
    check_signature(module, names)
    keyword, forward = by_keyword(module, names), module.forward

    def flat(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        if keyword:
            result = forward(**dict(zip(names, tensors, strict=True)))
        else:
            result = forward(*tensors)
        return flatten(result, outputs)

    had = module.__dict__.get("forward")
    module.forward = flat
    try:
        yield module
    finally:
        if had is None:
            del module.forward
        else:
            module.forward = had


def first_lines(exc: BaseException, count: int = 2) -> str:
    """Return the first *count* non-empty lines of the message of *exc* as one line."""
    lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
    return " ".join(lines[:count])[:400]


def blame(exc: BaseException, module: torch.nn.Module) -> str:
    """Return `` (in module 'path', file.py:12)`` for where in *module* *exc* was raised, or ``""``.

    Found in the traceback: the deepest frame whose ``self`` is a sub-module of *module*.
    """
    paths = {id(sub): path for path, sub in module.named_modules()}
    found = ""
    trace = exc.__traceback__
    while trace is not None:
        frame = trace.tb_frame
        owner = frame.f_locals.get("self")
        if id(owner) in paths and not frame.f_code.co_filename.endswith(
            "torch/nn/modules/module.py"
        ):
            path = paths[id(owner)] or type(module).__name__
            file = frame.f_code.co_filename.rpartition("/")[2]
            found = f" (in module '{path}', {file}:{trace.tb_lineno})"
        trace = trace.tb_next
    return found


def input_tensors(
    arrays: Mapping[str, np.ndarray[Any, Any]], inputs: Mapping[str, Mapping[str, Any]]
) -> dict[str, torch.Tensor]:
    """Return the sample *arrays* as tensors in the order of the declared *inputs*.

    Raises:
        StageError: when an input has no samples, or another dtype or number of axes than declared.
    """
    import torch

    tensors = {}
    for name, declared in inputs.items():
        if name not in arrays:
            raise StageError(
                f"the samples have no input '{name}'; they have {sorted(arrays)}",
                where=f"model.inputs.{name}",
                hint=nearest(name, arrays) or "mend model.samples or the input's name",
            )
        array, shape = arrays[name], declared["shape"]
        static = len(shape) == array.ndim and all(
            isinstance(size, str) or size == have
            for size, have in zip(shape, array.shape, strict=True)
        )
        if str(array.dtype) != declared["dtype"] or not static:
            raise StageError(
                f"the samples of '{name}' are {array.dtype} {list(array.shape)}, declared is "
                f"{declared['dtype']} {list(shape)}",
                where=f"model.inputs.{name}",
                hint="mend model.samples or the declaration",
            )
        tensors[name] = torch.from_numpy(array.copy())
    return tensors


def to_array(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    """Return *tensor* as a contiguous array; bfloat16, which NumPy lacks, as float32."""
    import torch

    dense = tensor.detach().cpu()
    if dense.dtype == torch.bfloat16:
        dense = dense.float()
    found: np.ndarray[Any, Any] = dense.contiguous().numpy()
    return found
