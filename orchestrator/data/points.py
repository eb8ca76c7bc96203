"""Which batches are taken: at which shape points, how large, from where."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, Literal

from orchestrator.config.schema import Dim
from orchestrator.data.ports import Port
from orchestrator.errors import StageError
from orchestrator.numerics.batches import Batch

Purpose = Literal["compare", "task", "calibration"]
POINTS: Final = ("min", "opt", "max")


def batch_dim(ports: Sequence[Port]) -> str | None:
    """Return the dynamic dimension that stands on axis 0 of every input, or None."""
    first = {port.shape[0] if port.shape else None for port in ports}
    only = first.pop() if len(first) == 1 else None
    return only if isinstance(only, str) else None


def compare_batches(
    profiles: Sequence[Mapping[str, Dim]], batch: str | None, group: int, batches: int
) -> list[Batch]:
    """Return batches at the minimum, the optimum and the maximum of each profile.

    There are *batches* at the first optimum, one at the others. Points of the first profile are
    named ``min``, ``opt`` and ``max``; of the second ``min 2`` and so on. Sizes that were there
    are not repeated, and those of an optimum are taken there alone. Successive batches take
    successive items.
    """
    optima = [_at(dims, "opt") for dims in profiles]
    seen: list[dict[str, int]] = []
    planned: list[tuple[str, dict[str, int], int]] = []
    for number, dims in enumerate(profiles, 1):
        for kind in POINTS:
            at = _at(dims, kind)
            if at in seen or (kind != "opt" and at in optima):
                continue
            seen.append(at)
            point = kind if number == 1 else f"{kind} {number}"
            count = batches if point == "opt" else 1
            planned += [(point, at, at[batch] if batch else group)] * count
    return _successive(planned)


def _at(dims: Mapping[str, Dim], point: str) -> dict[str, int]:
    return {name: getattr(dim, point) for name, dim in dims.items()}


def counted_batches(
    purpose: Purpose,
    dims: Mapping[str, Dim],
    batch: str | None,
    group: int,
    count: int,
    log: Callable[[str], None],
) -> list[Batch]:
    """Return batches at the optimum that hold *count* items, each once.

    What is left after full batches makes a smaller last batch. If that would be smaller than the
    batch dimension allows, it joins the batch before, as far as the maximum allows; what still does
    not fit is left out, and *log* says so.

    Raises:
        StageError: when *count* is less than the smallest batch.
    """
    opt = _at(dims, "opt")
    size = dims[batch] if batch else Dim(min=group, opt=group, max=group)
    sizes = list(_split(count, size))
    if not sizes:
        raise StageError(
            f"{count} items do not fill the smallest batch, {size.min}",
            where=f"model.{purpose}.count" if purpose == "task" else f"{purpose}.count",
            hint=f"ask for at least {size.min}, or lower the batch's minimum in model.dims",
        )
    if sum(sizes) < count:
        log(f"{count - sum(sizes)} of {count} items are left out: they fill no batch of {size.min}")
    return _successive(
        [(purpose, opt | {batch: items} if batch else opt, items) for items in sizes]
    )


def _split(count: int, size: Dim) -> Iterator[int]:
    full, rest = divmod(count, size.opt)
    if rest >= size.min:
        yield from [*[size.opt] * full, rest]
    elif full and size.opt + rest <= size.max:
        yield from [*[size.opt] * (full - 1), size.opt + rest]
    else:
        yield from [size.opt] * full


def _successive(planned: Sequence[tuple[str, dict[str, int], int]]) -> list[Batch]:
    batches: list[Batch] = []
    offset = 0
    for number, (point, dims, items) in enumerate(planned):
        batches.append(
            Batch(file=f"{number:03d}.npz", point=point, dims=dims, offset=offset, items=items)
        )
        offset += items
    return batches
