"""Optimization profiles: from named dimensions to min, opt and max shapes, checked beforehand.

TensorRT takes ``min > opt`` without a word and fails later, speaking of volumes and dimension
counts. So everything is checked here, in the words of the configuration: input, axis, named
dimension.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

from orchestrator.errors import ConfigError, StageError, nearest

#: An input's sizes; a string names a dynamic dimension, None one that is free without a name.
Sizes = Sequence[int | str | None]
#: Input → {"min", "opt", "max"} → sizes: one profile as the worker takes it.
ProfileShapes = Mapping[str, Mapping[str, Sequence[int]]]
POINTS: Final = ("min", "opt", "max")


class Range(Protocol):
    """The sizes a named dimension takes (``model.dims`` and ``profile.dims`` hold such)."""

    @property
    def min(self) -> int:
        """Smallest size."""

    @property
    def opt(self) -> int:
        """Size that is tuned for."""

    @property
    def max(self) -> int:
        """Largest size."""


def make_profiles(
    inputs: Mapping[str, Sizes],
    dims: Mapping[str, Range],
    narrowed: Sequence[Mapping[str, Range]] = (),
) -> list[dict[str, dict[str, list[int]]]]:
    """Return one profile per entry of *narrowed*, or one of *dims* alone when there are none.

    Args:
        inputs: Sizes of every input, as ``model.inputs`` declares them.
        dims: The named dimensions' declared ranges.
        narrowed: Per profile, narrower ranges of some dimensions; the others keep theirs.

    Returns:
        {input: {"min": […], "opt": […], "max": […]}} for each profile, of dynamic inputs only.
        Empty when no input is dynamic: TensorRT then makes the profile itself.

    Raises:
        ConfigError: a dimension is not declared, its range leaves the declared one or is not
            ordered, or several profiles are given for a model that has one shape.
    """
    dynamic = {name: sizes for name, sizes in inputs.items() if _is_dynamic(sizes)}
    if not dynamic:
        for index, ranges in enumerate(narrowed):
            if ranges or len(narrowed) > 1:
                raise ConfigError(
                    "no input of the model has a dynamic size, so there is nothing to profile",
                    where=_where(index, len(narrowed)),
                    hint="name a dimension in model.inputs.<input>.shape, or leave profiles out",
                )
        return []
    profiles = []
    for index, ranges in enumerate(narrowed or [{}]):
        where = _where(index, len(narrowed))
        _check_ranges(ranges, dims, where)
        merged = {**dims, **ranges}
        profiles.append({n: _shapes(n, sizes, merged, where) for n, sizes in dynamic.items()})
    check_profiles(profiles, inputs)
    return profiles


def check_profiles(profiles: Sequence[ProfileShapes], inputs: Mapping[str, Sizes]) -> None:
    """Check profiles given as shapes against the *inputs* of a model.

    Raises:
        ConfigError: naming profile, input, axis and dimension: an input is unknown or missing, has
            another rank, a fixed size differs, or min <= opt <= max does not hold.
    """
    dynamic = [name for name, sizes in inputs.items() if _is_dynamic(sizes)]
    if dynamic and not profiles:
        raise ConfigError(
            f"input '{dynamic[0]}' has dynamic sizes ({_listed(inputs[dynamic[0]])}), and there is "
            "no profile",
            where="profile",
            hint="give min, opt and max for every dynamic dimension",
        )
    for index, profile in enumerate(profiles):
        where = _where(index, len(profiles))
        for name in profile:
            if name not in inputs:
                raise ConfigError(
                    f"the model has no input '{name}'",
                    where=where,
                    hint=nearest(name, inputs) or f"its inputs: {', '.join(inputs)}",
                )
        for name in dynamic:
            if name not in profile:
                raise ConfigError(
                    f"input '{name}' has dynamic sizes ({_listed(inputs[name])}) and is missing",
                    where=where,
                    hint="a profile needs min, opt and max of every dynamic input",
                )
        for name, points in profile.items():
            _check_input(name, points, inputs[name], where)


def choose(profiles: Sequence[ProfileShapes], shapes: Mapping[str, Sequence[int]]) -> int:
    """Return the index of the profile for inputs of these *shapes*.

    Of the profiles that hold them it is the one whose ``opt`` is nearest (least sum of
    |log2(size / opt)| over all axes), the first among equals; 0 when there are no profiles.

    Raises:
        StageError: no profile holds them; the message names the first input and axis that is out.
    """
    from math import log2

    best: tuple[float, int] | None = None
    reasons = []
    for index, profile in enumerate(profiles):
        reason = _outside(profile, shapes)
        if reason:
            reasons.append(f"profile {index}: {reason}" if len(profiles) > 1 else reason)
            continue
        distance = sum(
            abs(log2(max(n, 1) / max(opt, 1)))
            for name, points in profile.items()
            for n, opt in zip(shapes[name], points["opt"], strict=True)
        )
        if best is None or distance < best[0]:
            best = (distance, index)
    if best is None and profiles:
        raise StageError(
            "; ".join(reasons),
            where="profile",
            hint="widen model.dims or the profile and build again, or feed other sizes",
        )
    return best[1] if best else 0


def _outside(profile: ProfileShapes, shapes: Mapping[str, Sequence[int]]) -> str:
    for name, points in profile.items():
        if name not in shapes:
            return f"input '{name}' is missing"
        given = shapes[name]
        if len(given) != len(points["opt"]):
            return f"input '{name}' has {len(given)} axes, the engine takes {len(points['opt'])}"
        for axis, n in enumerate(given):
            low, high = points["min"][axis], points["max"][axis]
            if not low <= n <= high:
                allowed = f"only {low}" if low == high else f"{low} to {high}"
                return f"input '{name}', axis {axis}: size {n}, but the engine takes {allowed}"
    return ""


def _check_ranges(ranges: Mapping[str, Range], dims: Mapping[str, Range], where: str) -> None:
    for name, wanted in ranges.items():
        if name not in dims:
            raise ConfigError(
                f"the model declares no dimension '{name}'",
                where=f"{where}.dims.{name}",
                hint=nearest(name, dims) or f"declared dimensions: {', '.join(dims) or 'none'}",
            )
        _check_ordered(wanted, f"dimension '{name}'", f"{where}.dims.{name}")
        declared = dims[name]
        if wanted.min < declared.min or wanted.max > declared.max:
            raise ConfigError(
                f"dimension '{name}' is declared from {declared.min} to {declared.max}, and the "
                f"profile asks for {wanted.min} to {wanted.max}",
                where=f"{where}.dims.{name}",
                hint=f"stay within it, or widen model.dims.{name}",
            )


def _check_ordered(wanted: Range, what: str, where: str) -> None:
    if not 0 <= wanted.min <= wanted.opt <= wanted.max:
        raise ConfigError(
            f"{what} needs 0 <= min <= opt <= max, got {wanted.min}, {wanted.opt}, {wanted.max}",
            where=where,
        )


def _shapes(name: str, sizes: Sizes, dims: Mapping[str, Range], where: str) -> dict[str, list[int]]:
    shapes: dict[str, list[int]] = {point: [] for point in POINTS}
    for axis, size in enumerate(sizes):
        if isinstance(size, int):
            for point in POINTS:
                shapes[point].append(size)
            continue
        if size is None or size not in dims:
            label = "has no name" if size is None else f"is named '{size}', which has no range"
            raise ConfigError(
                f"input '{name}', axis {axis}: the dynamic dimension {label}",
                where=where,
                hint=nearest(size or "", dims) or "declare it under model.dims",
            )
        for point in POINTS:
            shapes[point].append(getattr(dims[size], point))
    return shapes


def _check_input(name: str, points: Mapping[str, Any], sizes: Sizes, where: str) -> None:
    for point in POINTS:
        if point not in points:
            raise ConfigError(f"input '{name}' has no {point} shape", where=where)
        if len(points[point]) != len(sizes):
            raise ConfigError(
                f"input '{name}' has {len(sizes)} axes ({_listed(sizes)}), and its {point} shape "
                f"has {len(points[point])}",
                where=where,
            )
    for axis, size in enumerate(sizes):
        low, best, high = (points[point][axis] for point in POINTS)
        label = f"input '{name}', axis {axis}" + (f" ('{size}')" if isinstance(size, str) else "")
        if isinstance(size, int):
            if {low, best, high} != {size}:
                raise ConfigError(
                    f"{label}: the model fixes this size to {size}, and the profile has min {low}, "
                    f"opt {best}, max {high}",
                    where=where,
                    hint=f"use {size} in all three, or export the axis as dynamic",
                )
        elif not 0 <= low <= best <= high:
            raise ConfigError(
                f"{label}: needs 0 <= min <= opt <= max, got {low}, {best}, {high}", where=where
            )


def _is_dynamic(sizes: Sizes) -> bool:
    return any(not isinstance(size, int) for size in sizes)


def _where(index: int, count: int) -> str:
    return f"profile[{index}]" if count > 1 else "profile"


def _listed(sizes: Sizes) -> str:
    return ", ".join("?" if size is None else str(size) for size in sizes)
