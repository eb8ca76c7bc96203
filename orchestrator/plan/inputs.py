"""What a configuration points at: files with their digests, and its profiles' shape ranges."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from orchestrator.config.schema import Dim, Model, Profile
from orchestrator.errors import ConfigError, nearest
from orchestrator.locations import resolve
from orchestrator.plan.graph import File
from orchestrator.store.index import Index, identity


class Files:
    """Finds declared files and digests them through the index, each once a batch."""

    def __init__(self, base: Path, index: Index) -> None:
        self.base = base
        self._index = index
        self._found: dict[str, File] = {}

    def get(self, text: str, where: str) -> File:
        """Return the file or directory that *text* names.

        Raises:
            ConfigError: it is missing or cannot be read; *where* is the config key.
        """
        if text not in self._found:
            self._found[text] = self._look(text, where)
        return self._found[text]

    def _look(self, text: str, where: str) -> File:
        path = resolve(text, self.base)
        try:
            state = identity(path)  # before the digest: a write in between is noticed later
            look = self._index.directory if path.is_dir() else self._index.file
            return File(path=path, digest=look(path), identity=state)
        except FileNotFoundError:
            near = nearest(path.name, _names_beside(path))
            raise ConfigError(
                f"no such file: {text}" + (f" (looked for {path})" if text != str(path) else ""),
                where=where,
                hint=near or "relative paths start in the current directory",
            ) from None
        except OSError as exc:
            raise ConfigError(
                f"{text} cannot be read: {exc.strerror}", where=where, hint="check its permissions"
            ) from exc


def _names_beside(path: Path) -> list[str]:
    try:
        return [other.name for other in path.parent.iterdir()]
    except OSError:
        return []


def dims_of(model: Model, profile: Profile | None = None) -> dict[str, dict[str, int]]:
    """Return min, opt and max of each named dimension: the model's, or the first profile's.

    Raises:
        ConfigError: as :func:`profiles_of`.
    """
    return profiles_of(model, profile or Profile())[0]


def profiles_of(model: Model, profile: Profile) -> list[dict[str, dict[str, int]]]:
    """Return each profile's {dimension: {"min", "opt", "max"}}: the model's, narrowed by it.

    The first is that of ``profile.dims``, then follow those of ``profile.further``. Every dimension
    is in each of them; a model without any has one profile, which is empty.

    Raises:
        ConfigError: a dimension is unknown or undeclared, a range leaves the declared one, or a
            profile is the same as an earlier one.
    """
    _check_names(model)
    keys = ["profile.dims", *(f"profile.further.{n}" for n in range(len(profile.further)))]
    found: list[dict[str, dict[str, int]]] = []
    for key, narrowed in zip(keys, [profile.dims, *profile.further], strict=True):
        dims = _narrowed(model, narrowed, key)
        if dims in found:
            raise ConfigError(
                f"it has the same ranges as {keys[found.index(dims)]}: nothing would run in it",
                where=key,
                hint="give it other ranges, or remove it",
            )
        found.append(dims)
    return found


def _narrowed(model: Model, narrowed: dict[str, Dim], key: str) -> dict[str, dict[str, int]]:
    for name, dim in narrowed.items():
        declared = model.dims.get(name)
        if declared is None:
            raise ConfigError(
                f"the model '{model.name}' has no dimension '{name}'",
                where=f"{key}.{name}",
                hint=nearest(name, model.dims)
                or f"declared dimensions: {', '.join(model.dims) or 'none'}",
            )
        if dim.min < declared.min or dim.max > declared.max:
            raise ConfigError(
                f"{dim.min}..{dim.max} is outside the model's declared range "
                f"{declared.min}..{declared.max}",
                where=f"{key}.{name}",
                hint=f"stay within it, or widen model.dims.{name}",
            )
    merged = {**model.dims, **narrowed}
    return {name: dim.model_dump(mode="json") for name, dim in sorted(merged.items())}


def _check_names(model: Model) -> None:
    used = {
        size for entry in model.inputs.values() for size in entry.shape if isinstance(size, str)
    }
    for name, entry in model.inputs.items():
        for axis, size in enumerate(entry.shape):
            if isinstance(size, str) and size not in model.dims:
                raise ConfigError(
                    f"axis {axis} is the named dimension '{size}', which is not declared",
                    where=f"model.inputs.{name}.shape",
                    hint=nearest(size, model.dims)
                    or f"declare it: model.dims.{size}: {{min: 1, opt: 8, max: 32}}",
                )
    for name in model.dims:
        if name not in used:
            raise ConfigError(
                "no input has this dimension",
                where=f"model.dims.{name}",
                hint=nearest(name, used) or "remove it, or name it in an input's shape",
            )


def checkpoint_params(model: Model) -> dict[str, Any] | None:
    """Return what the loader needs of the checkpoint group; the path is a file, not a parameter."""
    if model.checkpoint is None:
        return None
    return model.checkpoint.model_dump(mode="json", exclude={"path"})
