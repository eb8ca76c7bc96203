"""Weights and constants in half precision: what may be rounded, and what is refused.

A value beyond the largest finite number of the type is never clamped in silence (some converters
clamp to 1e4 by default). Two kinds of constant are not numbers but the word "minus infinity", and
keep that meaning as the type's largest number with its sign:

* the limits of fp32 themselves (±3.4028235e38, ``torch.finfo(torch.float32).min``): the same model
  in half precision says ``torch.finfo(torch.float16).min``. They are beyond bf16 too, whose largest
  number is 3.3895314e38, and would round to infinity;
* masks, such as -1e9: negative constants that only ever reach a Softmax (found by
  :mod:`orchestrator.numerics.masks`).

They stay finite because a row masked everywhere must stay finite (softmax of only -inf is NaN) and
because ``0 * -inf`` is NaN in ``(1 - mask) * -3.4e38``.
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

    from orchestrator.numerics.half_types import HalfType

    Array = np.ndarray[Any, Any]

FLOAT_LIMIT = float(np.finfo(np.float32).max)


@dataclass
class ConstantReport:
    """What rounding the constants of one model did.

    Attributes:
        subnormal: Elements that became subnormal or zero, of those that were not zero.
        flushed: Those among them that became zero.
        flushed_scalars: Names of one-element constants that became zero (an epsilon, usually).
        sentinels: Names of constants that mean "minus infinity" and became the largest number.
        overflowed: Elements beyond the range that stayed in fp32 because a kept node uses them.
        miscounted: Names of constants with whole numbers that became others (fp16 counts exactly to
            2048, bf16 to 256).
    """

    subnormal: int = 0
    flushed: int = 0
    flushed_scalars: list[str] = field(default_factory=list)
    sentinels: list[str] = field(default_factory=list)
    overflowed: int = 0
    miscounted: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Overflow:
    """A constant that half precision cannot hold, and the nodes that want it so."""

    name: str
    largest: float
    count: int
    users: Sequence[str]


def overflowing(array: Array, half: HalfType) -> int:
    """Return how many finite elements of *array* lie beyond the range of *half*."""
    return int(np.count_nonzero(_beyond(array, half)))


def is_sentinel(array: Array, half: HalfType) -> bool:
    """Return whether every element of *array* beyond *half* is a limit of fp32 itself."""
    beyond = _beyond(array, half)
    return bool(beyond.any() and (np.abs(array[beyond]) == np.float32(FLOAT_LIMIT)).all())


def _beyond(array: Array, half: HalfType) -> Array:
    found: Array = np.isfinite(array) & (np.abs(array) > half.largest)
    return found


def _all_negative(array: Array, half: HalfType) -> bool:
    return bool((array[_beyond(array, half)] < 0).all())


def to_half(
    tensor: onnx.TensorProto,
    name: str,
    users: Sequence[str],
    *,
    half: HalfType,
    mask: bool,
    report: ConstantReport,
    overflows: list[Overflow],
) -> onnx.TensorProto:
    """Return *tensor* (fp32) rounded to nearest even in *half*, under *name*.

    Args:
        tensor: The constant, float32 of any shape.
        name: Name of the result.
        users: Labels of the nodes that want it in half precision, for the error.
        half: The type.
        mask: The constant only ever masks a Softmax: values beyond the range keep their sign.
        report: Updated with what happened.
        overflows: Receives the constant when *half* cannot hold it.
    """
    array = numpy_helper.to_array(tensor)
    beyond = overflowing(array, half)
    if beyond and ((mask and _all_negative(array, half)) or is_sentinel(array, half)):
        report.sentinels.append(tensor.name or name)
        finite = np.isfinite(array)
        array = np.where(finite, np.clip(array, -half.largest, half.largest), array)
    elif beyond:
        finite = np.where(np.isfinite(array), array, 0)
        largest = float(finite.flat[int(np.argmax(np.abs(finite)))])
        overflows.append(Overflow(tensor.name or name, largest, beyond, users))
        return tensor
    with np.errstate(over="ignore", under="ignore"):
        rounded = array.astype(half.dtype)
    _note_rounding(array, rounded, tensor.name or name, half, report)
    return numpy_helper.from_array(rounded, name)


def _note_rounding(
    array: Array, rounded: Array, name: str, half: HalfType, report: ConstantReport
) -> None:
    nonzero = array != 0
    flushed = int(np.count_nonzero(nonzero & (rounded == 0)))
    report.subnormal += int(np.count_nonzero(nonzero & (np.abs(array) < half.smallest_normal)))
    report.flushed += flushed
    if flushed and array.size == 1:
        report.flushed_scalars.append(name)
    large = np.isfinite(array) & (np.abs(array) > half.counts_to)
    if large.any():
        numbers = array[large]
        changed = rounded[large].astype(np.float32) != numbers
        if (changed & (numbers == np.rint(numbers))).any():
            report.miscounted.append(name)


def refuse(overflows: Sequence[Overflow], half: HalfType) -> None:
    """Raise a StageError for constants that *half* cannot hold; none is fine."""
    if not overflows:
        return
    first = overflows[0]
    nodes = list(dict.fromkeys(user for overflow in overflows for user in overflow.users))
    others = f" (and {len(overflows) - 1} other tensors)" if len(overflows) > 1 else ""
    shown = ", ".join(f"'{user}'" for user in nodes[:4])
    raise StageError(
        f"tensor '{first.name}'{others} does not fit {half.name}: {first.count} of its elements "
        f"lie beyond ±{half.largest:g}, the largest is {first.largest:g}; it is used by node "
        f"'{first.users[0]}'",
        where="precision.name",
        hint=f"keep the nodes that use it in fp32: precision.keep_nodes=[{shown}"
        + (", …]" if len(nodes) > 4 else "]")
        + ", or use precision=fp32",
    )
