"""Plans on disk: the header, the manifest beside them, and whether one will load here.

Nothing here needs TensorRT. A plan is executable content and a flipped byte deserialises without
complaint (seen on 8.6.0), so it is loaded only when its SHA-256 is the manifest's.

Header (NVIDIA's ``trtexec --getPlanVersionOnly``, plans since 8.6): bytes 0–3 ``ftrt``, bytes 4–7
the serialization version 0 (little-endian), bytes 24–27 TensorRT's major, minor, patch and build.
It names no device: compute capability and the rest are in the manifest, ``<plan>.json``.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from orchestrator.backends.tensorrt.compatibility import (
    Findings,
    Reason,
    check_device,
    check_plugins,
    check_version,
)
from orchestrator.errors import StageError
from orchestrator.store.digests import of_file

MAGIC: Final = b"ftrt"
HEADER_BYTES: Final = 28
SCHEMA: Final = 1
#: The plan's name in the store, in experiment directories and in packages.
NAME: Final = "engine.plan"
_DAMAGED: Final = "copy it again from where it was built, or build it again"


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a plan's first bytes say: TensorRT's (major, minor, patch, build)."""

    version: tuple[int, int, int, int]

    def __str__(self) -> str:
        return ".".join(map(str, self.version))


@dataclass(frozen=True, kw_only=True)
class Preflight:
    """Whether a plan will load.

    Attributes:
        loads: True, False, or None where something that decides it is not known.
        findings: Why not, or what is not known.
        warnings: What may make it slow or fail although it loads.
        version: TensorRT's version in the header; empty where there is no header.
        intact: Whether the bytes are those that the manifest was written for; None without one.
        manifest: The manifest; None when there is none that can be read.
    """

    loads: bool | None
    findings: tuple[Reason, ...]
    warnings: tuple[str, ...]
    version: str
    intact: bool | None
    manifest: Mapping[str, Any] | None

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why not, or what is not known; each one sentence."""
        return tuple(finding.text for finding in self.findings)

    @property
    def hints(self) -> tuple[str, ...]:
        """What to do about it, each once."""
        return tuple(dict.fromkeys(one.hint for one in self.findings if one.hint))


def manifest_path(plan: Path) -> Path:
    """Return where the manifest of *plan* lies: ``model.plan.json`` beside ``model.plan``."""
    return plan.with_name(f"{plan.name}.json")


def read_header(plan: Path) -> Header:
    """Return the header of *plan*.

    Raises:
        StageError: the file cannot be read, is no plan, or is too short for a header.
    """
    try:
        with plan.open("rb") as file:
            head = file.read(HEADER_BYTES)
    except OSError as exc:
        raise StageError(f"the plan cannot be read: {exc.strerror}", where=str(plan)) from exc
    if not head:
        raise StageError("the file is empty", where=str(plan), hint=_DAMAGED)
    if head[:4] != MAGIC[: len(head)]:
        raise StageError(
            "this is not a TensorRT plan: it does not begin with 'ftrt'",
            where=str(plan),
            hint="give the file that the build wrote; plans older than 8.6 cannot be read",
        )
    if len(head) < HEADER_BYTES:
        raise StageError(f"the plan ends after {len(head)} bytes", where=str(plan), hint=_DAMAGED)
    if int.from_bytes(head[4:8], "little") != 0:
        raise StageError(
            "the plan's serialization version is not 0, the only one known",
            where=str(plan),
            hint="build it again with TensorRT 8.6 or later",
        )
    return Header(version=(head[24], head[25], head[26], head[27]))


def digest(plan: Path) -> str:
    """Return the SHA-256 of *plan* as 64 hexadecimal digits."""
    return of_file(plan)


def write_manifest(
    plan: Path,
    identity: Mapping[str, Any],
    *,
    options: Mapping[str, Any] | None = None,
    plugins: Mapping[str, str] | None = None,
    more: Mapping[str, Any] | None = None,
) -> Path:
    """Write the manifest of *plan* beside it, atomically, and return its path.

    Args:
        plan: The plan, complete.
        identity: Where it was built, as the worker reports it (``seen``).
        options: The build options; ``version_compatible``, ``exclude_lean_runtime``,
            ``hardware_compatibility`` and ``runtime_platform`` decide where it loads.
        plugins: Plugin library's file name → SHA-256.
        more: Further JSON for readers (precision, inputs, outputs, profiles, commands).
    """
    chosen = options or {}
    manifest = {
        "schema": SCHEMA,
        "plan": {"sha256": digest(plan), "bytes": plan.stat().st_size},
        "built": dict(identity),
        "compatibility": {
            "version": bool(chosen.get("version_compatible")),
            "lean_runtime": not chosen.get("exclude_lean_runtime"),
            "hardware": chosen.get("hardware_compatibility") or "none",
            "platform": chosen.get("runtime_platform") or "same_as_build",
        },
        "plugins": dict(plugins or {}),
        **(more or {}),
    }
    path = manifest_path(plan)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(manifest, file, indent=2, sort_keys=True)
            file.write("\n")
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path


def read_manifest(plan: Path) -> dict[str, Any] | None:
    """Return the manifest of *plan*; None when there is none.

    ``plan`` {sha256, bytes}, ``built`` (an identity), ``compatibility`` and ``plugins`` {file name:
    SHA-256} have the types that :func:`write_manifest` gives them; of anything else nothing is
    known.

    Raises:
        StageError: it is damaged, or of a newer schema.
    """
    path = manifest_path(plan)
    try:
        found = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
        _check_depth(found)
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise StageError(
            f"the plan's manifest cannot be read: {exc.strerror}", where=str(path)
        ) from exc
    except (ValueError, RecursionError) as exc:
        raise StageError(
            f"the plan's manifest is damaged: {exc}", where=str(path), hint=_DAMAGED
        ) from exc
    schema = found.get("schema") if isinstance(found, dict) else None
    if type(schema) is not int or schema < 1:
        raise StageError("the plan's manifest is not one of ours", where=str(path), hint=_DAMAGED)
    if schema > SCHEMA:
        raise StageError(
            f"the plan's manifest has schema {schema}; the newest known is {SCHEMA}",
            where=str(path),
            hint="use the version of orchestrate that wrote it, or a newer one",
        )
    wrong = _wrong_section(found)
    if wrong:
        raise StageError(
            f"the plan's manifest is damaged: '{wrong}' is not what it should be",
            where=str(path),
            hint=_DAMAGED,
        )
    return dict(found)


def _refuse(text: str) -> None:
    raise ValueError(f"{text} is no JSON")


def _check_depth(value: Any, most: int = 32) -> None:
    if most == 0:
        raise ValueError("nested too deeply")
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            _check_depth(item, most - 1)


def _wrong_section(manifest: Mapping[str, Any]) -> str:
    """Return the first section of *manifest* whose type is wrong; empty when none is."""
    plan = manifest.get("plan")
    if not isinstance(plan, dict) or type(plan.get("bytes")) is not int:
        return "plan"
    if not isinstance(plan.get("sha256"), str):
        return "plan"
    for name in ("built", "compatibility", "plugins"):
        if not isinstance(manifest.get(name), dict):
            return name
    if not isinstance(manifest["built"].get("device"), dict | None):
        return "built"
    plugins = manifest["plugins"].values()
    return "" if all(isinstance(sha256, str) for sha256 in plugins) else "plugins"


def verify(plan: Path) -> dict[str, Any]:
    """Return the manifest of *plan* after its bytes were held against it: call before loading.

    Raises:
        StageError: there is no manifest, or size or digest differ.
    """
    manifest = read_manifest(plan)
    if manifest is None:
        raise StageError(
            "the plan has no manifest, so nothing says that its bytes are the ones that were built",
            where=str(plan),
            hint=f"keep {manifest_path(plan).name} beside it, or build it again",
        )
    reason = _damage(plan, manifest)
    if reason:
        raise StageError(reason, where=str(plan), hint=_DAMAGED)
    return manifest


def check(
    plan: Path, here: Mapping[str, Any] | None, *, problem: Reason | None = None
) -> Preflight:
    """Return whether *plan* will load *here*, and why not.

    What is wrong with the file or its manifest is a finding too; a plan whose manifest is missing
    or cannot be read is one of which little is known.

    Args:
        plan: The plan file; its manifest lies beside it.
        here: The identity of a toolchain (``tensorrt``, ``platform``, ``device`` …), as far as it
            is known, and ``plugins`` {file name: SHA-256} of the libraries it would load; None:
            only the file.
        problem: Why not all of *here* is known, in place of "TensorRT is not known".

    Raises:
        StageError: the file cannot be read.
    """
    found = Findings()
    header = _header(plan, found)
    manifest = _manifest(plan, found)
    intact = None if manifest is None else _is_intact(plan, manifest, found)
    if problem is not None:
        found.unknown.append(problem)
    elif here is None:
        found.unknown.append(Reason("no TensorRT was found here to hold the plan against"))
    if here is not None:
        if header is not None and (here.get("tensorrt") or problem is None):
            check_version(header.version, manifest, here, found)
        if manifest is not None:
            check_device(manifest, here, found)
            check_plugins(manifest, here, found)
    return Preflight(
        loads=False if found.wrong else (None if found.unknown else True),
        findings=tuple(found.wrong or found.unknown),
        warnings=tuple(found.warnings),
        version=str(header or ""),
        intact=intact,
        manifest=manifest,
    )


def _header(plan: Path, found: Findings) -> Header | None:
    try:
        return read_header(plan)
    except StageError as exc:
        if isinstance(exc.__cause__, OSError):
            raise
        found.wrong.append(Reason(exc.message, exc.hint))
        return None


def _manifest(plan: Path, found: Findings) -> dict[str, Any] | None:
    try:
        manifest = read_manifest(plan)
    except StageError as exc:
        found.unknown.append(Reason(f"{manifest_path(plan).name}: {exc.message}", exc.hint))
        return None
    if manifest is None:
        found.unknown.append(
            Reason(
                "the plan has no manifest: device, platform, plugins and intact bytes are not "
                "known",
                f"put {manifest_path(plan).name} from where it was built beside it",
            )
        )
    return manifest


def _is_intact(plan: Path, manifest: Mapping[str, Any], found: Findings) -> bool:
    damage = _damage(plan, manifest)
    if damage:
        found.wrong.append(Reason(damage, _DAMAGED))
    return not damage


def _damage(plan: Path, manifest: Mapping[str, Any]) -> str:
    wanted = manifest["plan"]
    try:
        size = plan.stat().st_size
        if size != wanted["bytes"]:
            return f"the plan has {size} bytes, and its manifest says {wanted['bytes']}"
        if digest(plan) != wanted["sha256"]:
            return "the plan's bytes are not those its manifest was written for (SHA-256 differs)"
    except OSError as exc:
        raise StageError(f"the plan cannot be read: {exc.strerror}", where=str(plan)) from exc
    return ""
