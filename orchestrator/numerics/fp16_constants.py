"""Weights and constants in fp16: what may be rounded, and what is refused.

A value beyond the largest finite fp16 number is never clamped in silence (some converters clamp
to 1e4 by default). Two kinds of constant are not numbers but the word "minus infinity", and
keep that meaning as ±65504:

* the limits of fp32 themselves (±3.4028235e38, ``torch.finfo(torch.float32).min``): the same model
  in half precision says ``torch.finfo(torch.float16).min``;
* masks, such as -1e9: negative constants that only ever reach a Softmax (found by
  :mod:`orchestrator.numerics.masks`).

They become ±65504 and not ±inf because a row masked everywhere must stay finite
(softmax of only -inf is NaN) and because ``0 * -inf`` is NaN in ``(1 - mask) * -3.4e38``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import numpy_helper

from orchestrator.errors import StageError

if TYPE_CHECKING:
    from collections.abc import Sequence

LARGEST = 65504.0
"""The largest finite fp16 number (IEEE 754 binary16)."""
SMALLEST_NORMAL = 2.0**-14
FLOAT_LIMIT = float(np.finfo(np.float32).max)


@dataclass
class ConstantReport:
    """What rounding the constants of one model did.

    Attributes:
        subnormal: Elements that became subnormal or zero, of those that were not zero.
        flushed: Those among them that became zero.
        flushed_scalars: Names of one-element constants that became zero (an epsilon, usually).
        sentinels: Names of constants that mean "minus infinity" and became ±65504.
        overflowed: Elements beyond ±65504 that stayed in fp32 because a kept node uses them.
    """

    subnormal: int = 0
    flushed: int = 0
    flushed_scalars: list[str] = field(default_factory=list)
    sentinels: list[str] = field(default_factory=list)
    overflowed: int = 0


@dataclass(frozen=True)
class Overflow:
    """A constant that fp16 cannot hold, and the nodes that want it in fp16."""

    name: str
    largest: float
    count: int
    users: Sequence[str]


def overflowing(array: np.ndarray[Any, Any]) -> int:
    """Return how many finite elements of *array* lie beyond ±65504."""
    return int(np.count_nonzero(np.isfinite(array) & (np.abs(array) > LARGEST)))


def is_sentinel(array: np.ndarray[Any, Any]) -> bool:
    """Return whether every element of *array* beyond ±65504 is a limit of fp32 itself."""
    beyond = np.isfinite(array) & (np.abs(array) > LARGEST)
    return bool(beyond.any() and (np.abs(array[beyond]) == np.float32(FLOAT_LIMIT)).all())


def _all_negative(array: np.ndarray[Any, Any]) -> bool:
    return bool((array[np.isfinite(array) & (np.abs(array) > LARGEST)] < 0).all())


def to_half(
    tensor: onnx.TensorProto,
    name: str,
    users: Sequence[str],
    *,
    mask: bool,
    report: ConstantReport,
    overflows: list[Overflow],
) -> onnx.TensorProto:
    """Return *tensor* (fp32) rounded to nearest even in fp16, under *name*.

    Args:
        tensor: The constant, float32 of any shape.
        name: Name of the result.
        users: Labels of the nodes that want it in fp16, for the error.
        mask: The constant only ever masks a Softmax: values beyond the range keep their sign.
        report: Updated with what happened.
        overflows: Receives the constant when fp16 cannot hold it.
    """
    array = numpy_helper.to_array(tensor)
    beyond = overflowing(array)
    if beyond and ((mask and _all_negative(array)) or is_sentinel(array)):
        report.sentinels.append(tensor.name or name)
        finite = np.isfinite(array)
        array = np.where(finite, np.clip(array, -LARGEST, LARGEST), array)
    elif beyond:
        finite = np.where(np.isfinite(array), array, 0)
        largest = float(finite.flat[int(np.argmax(np.abs(finite)))])
        overflows.append(Overflow(tensor.name or name, largest, beyond, users))
        return tensor
    with np.errstate(over="ignore", under="ignore"):
        half = array.astype(np.float16)
    nonzero = array != 0
    flushed = int(np.count_nonzero(nonzero & (half == 0)))
    report.subnormal += int(np.count_nonzero(nonzero & (np.abs(array) < SMALLEST_NORMAL)))
    report.flushed += flushed
    if flushed and array.size == 1:
        report.flushed_scalars.append(tensor.name or name)
    return numpy_helper.from_array(half, name)


def refuse(overflows: Sequence[Overflow]) -> None:
    """Raise a StageError for constants that fp16 cannot hold; none is fine."""
    if not overflows:
        return
    first = overflows[0]
    nodes = list(dict.fromkeys(user for overflow in overflows for user in overflow.users))
    others = f" (and {len(overflows) - 1} other tensors)" if len(overflows) > 1 else ""
    shown = ", ".join(f"'{user}'" for user in nodes[:4])
    raise StageError(
        f"tensor '{first.name}'{others} does not fit fp16: {first.count} of its elements lie "
        f"beyond ±65504, the largest is {first.largest:g}; it is used by node '{first.users[0]}'",
        where="precision.name",
        hint=f"keep the nodes that use it in fp32: precision.keep_nodes=[{shown}"
        + (", …]" if len(nodes) > 4 else "]")
        + ", or use precision=fp32",
    )
