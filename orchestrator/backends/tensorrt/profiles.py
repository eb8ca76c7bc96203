"""Optimization profiles: from the ranges of named dimensions to min, opt and max shapes.

The ranges are checked where the configuration is (``plan/inputs.py``), the network's own inputs in
the worker; TensorRT itself takes ``min > opt`` without a word and fails later, speaking of volumes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

from orchestrator.backends.tensorrt.versions import Version
from orchestrator.errors import PlanError

#: An input's sizes, as ``model.inputs`` declares them; a string names a dynamic dimension.
Sizes = Sequence[int | str]
#: Dimension → {"min", "opt", "max"}: one profile as ``plan.inputs.profiles_of`` gives it.
Ranges = Mapping[str, Mapping[str, int]]
#: Input → {"min", "opt", "max"} → sizes: one profile as the worker takes it.
ProfileShapes = Mapping[str, Mapping[str, Sequence[int]]]
POINTS: Final = ("min", "opt", "max")

#: The headers say "must be less than 2^31 elements" of every tensor from 8.6 to 10.10, and the
#: notes of 10.10 that most layers take more.
_VOLUME: Final = 2**31
_UNLIMITED: Final = (10, 10)


def make_profiles(inputs: Mapping[str, Sizes], profiles: Sequence[Ranges]) -> list[ProfileShapes]:
    """Return {input: {"min": […], "opt": […], "max": […]}} for each of *profiles*.

    Of inputs with dynamic sizes only, and empty when no input has any: TensorRT then makes the one
    profile itself.
    """
    dynamic = {name: sizes for name, sizes in inputs.items() if _is_dynamic(sizes)}
    if not dynamic:
        return []
    return [
        {
            name: {point: _shape(sizes, ranges, point) for point in POINTS}
            for name, sizes in dynamic.items()
        }
        for ranges in profiles
    ]


def check_volumes(
    inputs: Mapping[str, Sizes],
    profiles: Sequence[Ranges],
    version: Version,
    toolchain: str = "the toolchain",
) -> None:
    """Check that no input is larger at its maximum than this TensorRT can address.

    Raises:
        PlanError: one has 2^31 elements or more, and *version* is older than 10.10.
    """
    if version.parts >= _UNLIMITED:
        return
    for name, sizes in inputs.items():
        for index, ranges in enumerate(profiles):
            shape = _shape(sizes, ranges, "max")
            if math.prod(shape) < _VOLUME:
                continue
            shown = ", ".join(str(size) for size in shape)
            key = "profile.dims" if index == 0 else f"profile.further.{index - 1}"
            names = ", ".join(dict.fromkeys(size for size in sizes if isinstance(size, str)))
            raise PlanError(
                f"input '{name}' has {math.prod(shape)} elements at its maximum [{shown}]; "
                f"{toolchain} has TensorRT {version}, which takes fewer than 2^31",
                where=key if names else f"model.inputs.{name}.shape",
                hint=(f"lower the maximum of {names}, or " if names else "")
                + "use a toolchain with TensorRT >= 10.10",
            )


def _shape(sizes: Sizes, ranges: Ranges, point: str) -> list[int]:
    return [size if isinstance(size, int) else ranges[size][point] for size in sizes]


def _is_dynamic(sizes: Sizes) -> bool:
    return any(isinstance(size, str) for size in sizes)
