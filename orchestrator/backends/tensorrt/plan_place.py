"""Which plan a path names: the file itself, or the one in an experiment directory or a package."""

from __future__ import annotations

import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from orchestrator.backends.tensorrt.plan_file import NAME, manifest_path
from orchestrator.errors import UsageError

_FOLDERS: Final = ("artifacts/engine", "engine", "model", ".")
_ENDINGS: Final = (".plan", ".engine", ".trt")


def find_plan(place: Path) -> Path:
    """Return the plan that *place* names: a file, an experiment directory or a package.

    Raises:
        UsageError: there is nothing, no regular file, or no one plan.
    """
    try:
        mode = place.stat().st_mode
        if stat.S_ISREG(mode):
            return _beside_its_manifest(place)
        if stat.S_ISDIR(mode):
            return _in_directory(place)
    except OSError as exc:
        raise UsageError(
            f"cannot be read: {exc.strerror}", where=str(place), hint="check the path"
        ) from exc
    raise UsageError("is no regular file", where=str(place), hint="give a plan's file")


def _beside_its_manifest(plan: Path) -> Path:
    """Return *plan*, or what it links to where only that has a manifest."""
    if plan.is_symlink() and not manifest_path(plan).exists():
        target = plan.resolve()
        if manifest_path(target).exists():
            return target
    return plan


def _in_directory(place: Path) -> Path:
    for folder in _FOLDERS:
        if (place / folder / NAME).is_file():
            return place / folder / NAME
    found = (path for ending in _ENDINGS for path in place.glob(f"*{ending}"))
    others = sorted(path for path in found if path.is_file())
    if len(others) == 1:
        return _beside_its_manifest(others[0])
    raise UsageError("holds no TensorRT plan", where=str(place), hint=_instead(place, others))


def _instead(place: Path, others: Sequence[Path]) -> str:
    """Return what to do about a directory in which there is no one plan."""
    if others:
        return f"it holds {len(others)} of them: name one, such as {others[0]}"
    if any((place / folder).is_symlink() for folder in _FOLDERS):
        return "its engine is not in the store any more: build the experiment again"
    if (place / "artifacts" / "session").exists():
        return "it was built for ONNX Runtime: target=tensorrt builds engines"
    below = sorted(place.glob(f"*/artifacts/engine/{NAME}"))
    if below:
        return f"name one of the {len(below)} variants in it, such as {below[0].parents[2]}"
    return "give a plan, or a directory that 'orchestrate build' or 'package' made"
