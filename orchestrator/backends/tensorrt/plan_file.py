"""Plans on disk: the header, the manifest beside them, and whether one will load here.

Nothing here needs TensorRT. A plan is executable content and a flipped byte deserialises without
complaint (seen on 8.6.0), so it is loaded only when its SHA-256 is the manifest's.

Header (NVIDIA's ``trtexec --getPlanVersionOnly``, plans since 8.6): bytes 0–3 ``ftrt``, bytes 4–7
the serialization version 0 (little-endian), bytes 24–27 TensorRT's major, minor, patch and build.
It names no device: compute capability and the rest are in the manifest, ``<plan>.json``.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from orchestrator.backends.tensorrt.versions import Version, parse_version
from orchestrator.errors import PlanError, StageError

MAGIC: Final = b"ftrt"
HEADER_BYTES: Final = 28
SCHEMA: Final = 1
#: Properties of a device that decide speed and memory, not whether a plan loads.
_SAME_MODEL: Final = ("name", "sms", "memory_bytes", "l2_bytes")


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
        reasons: Why not, or what is not known; each one sentence.
        warnings: What may make it slow or fail although it loads.
        version: TensorRT's version in the header.
        manifest: The manifest; None when there is none.
    """

    loads: bool | None
    reasons: tuple[str, ...]
    warnings: tuple[str, ...]
    version: str
    manifest: Mapping[str, Any] | None


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
    if head[:4] != MAGIC[: len(head)] or not head:
        raise StageError(
            "this is not a TensorRT plan: it does not begin with 'ftrt'",
            where=str(plan),
            hint="give the file that the build wrote; plans older than 8.6 cannot be read",
        )
    if len(head) < HEADER_BYTES:
        raise StageError(
            f"the plan ends after {len(head)} bytes", where=str(plan), hint="build it again"
        )
    if int.from_bytes(head[4:8], "little") != 0:
        raise StageError(
            "the plan's serialization version is not 0, the only one known",
            where=str(plan),
            hint="build it again with TensorRT 8.6 or later",
        )
    return Header(version=(head[24], head[25], head[26], head[27]))


def digest(plan: Path) -> str:
    """Return the SHA-256 of *plan* as 64 hexadecimal digits."""
    found = hashlib.sha256()
    with plan.open("rb") as file:
        while chunk := file.read(1 << 20):
            found.update(chunk)
    return found.hexdigest()


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

    Raises:
        StageError: it is not JSON, or of a newer schema.
    """
    path = manifest_path(plan)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as exc:
        raise StageError(f"the plan's manifest cannot be read: {exc}", where=str(path)) from exc
    if not isinstance(found, dict) or not isinstance(found.get("plan"), dict):
        raise StageError("the plan's manifest is not one of ours", where=str(path))
    if not isinstance(found.get("schema"), int) or found["schema"] > SCHEMA:
        raise StageError(
            f"the plan's manifest has schema {found.get('schema')}; the newest known is {SCHEMA}",
            where=str(path),
            hint="use the version of orchestrate that wrote it, or a newer one",
        )
    return found


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
        raise StageError(reason, where=str(plan), hint="copy or build it again")
    return manifest


def check(plan: Path, here: Mapping[str, Any] | None) -> Preflight:
    """Return whether *plan* will load *here*, and why not.

    Args:
        plan: The plan file; its manifest lies beside it.
        here: The identity of a toolchain (``tensorrt``, ``platform``, ``device`` …), and
            ``plugins`` {file name: SHA-256} of the libraries it would load; None: only the file.

    Raises:
        StageError: the file is no plan, or its manifest cannot be read.
    """
    header = read_header(plan)
    manifest = read_manifest(plan)
    wrong: list[str] = []
    unknown: list[str] = []
    warnings: list[str] = []
    if manifest is None:
        unknown.append(
            "the plan has no manifest: device, platform, plugins and intact bytes are not known"
        )
    else:
        wrong.extend(filter(None, [_damage(plan, manifest)]))
    if here is None:
        unknown.append("no TensorRT was found here to hold the plan against")
    else:
        _check_version(header, manifest, here, wrong, unknown)
        if manifest is not None:
            _check_device(manifest, here, wrong, unknown, warnings)
            _check_plugins(manifest, here, wrong)
    return Preflight(
        loads=False if wrong else (None if unknown else True),
        reasons=tuple(wrong or unknown),
        warnings=tuple(warnings),
        version=str(header),
        manifest=manifest,
    )


def _damage(plan: Path, manifest: Mapping[str, Any]) -> str:
    wanted = manifest["plan"]
    size = plan.stat().st_size
    if size != wanted.get("bytes"):
        return f"the plan has {size} bytes, and its manifest says {wanted.get('bytes')}"
    if digest(plan) != wanted.get("sha256"):
        return "the plan's bytes are not those its manifest was written for (SHA-256 differs)"
    return ""


def _check_version(
    header: Header,
    manifest: Mapping[str, Any] | None,
    here: Mapping[str, Any],
    wrong: list[str],
    unknown: list[str],
) -> None:
    version = _version(here)
    if version is None:
        unknown.append("the version of TensorRT here is not known")
        return
    parts = version.parts[:4]
    if parts == header.version[: len(parts)]:
        return
    compatibility = (manifest or {}).get("compatibility", {})
    if not compatibility.get("version"):
        if manifest is None:
            why = "and no manifest says that it is version-compatible"
        else:
            why = "and it is not version-compatible"
        wrong.append(f"it was built by TensorRT {header}, here is {version}, {why}")
        return
    built = header.version[0]
    newer = parts >= header.version[: len(parts)]
    # NVIDIA's support matrix (11.4): a major's compatible plans load in that major and the next.
    if version.major == built and not newer:
        unknown.append(
            f"it is version-compatible, but was built by a newer TensorRT {header} than {version}"
        )
    elif version.major != built and (built, version.major) not in ((8, 10), (10, 11)):
        wrong.append(f"version-compatible plans of TensorRT {built} do not load in {version.major}")
    if not compatibility.get("lean_runtime", True):
        unknown.append(f"it needs the lean runtime of TensorRT {header}, which is not in the plan")


def _check_device(
    manifest: Mapping[str, Any],
    here: Mapping[str, Any],
    wrong: list[str],
    unknown: list[str],
    warnings: list[str],
) -> None:
    built, compatibility = manifest.get("built", {}), manifest.get("compatibility", {})
    platform = built.get("platform")
    if compatibility.get("platform") == "windows_amd64":
        platform = "windows-amd64"
    now_on = str(here.get("platform") or "")
    if platform and now_on and str(platform).lower() != now_on.lower():
        wrong.append(f"it is for {platform}, here is {here['platform']}")
    then, now = built.get("device") or {}, here.get("device") or {}
    built_for, has = then.get("compute_capability"), now.get("compute_capability")
    level = compatibility.get("hardware", "none")
    if not built_for or not has:
        unknown.append("the compute capability here, or of the build, is not known")
    elif level == "ampere_plus" and _capability(built_for) >= (8, 0):
        if _capability(has) < (8, 0):
            wrong.append(f"it is for compute capability >= 8.0, here is {has}")
    elif built_for != has:
        wrong.append(f"it is for compute capability {built_for}, here is {has}")
    elif level == "none":
        for key in _SAME_MODEL:
            if key in then and key in now and then[key] != now[key]:
                warnings.append(
                    f"it was tuned on another device ({key} {then[key]}, here {now[key]}): it may "
                    "be slow, or fail for lack of memory"
                )


def _check_plugins(manifest: Mapping[str, Any], here: Mapping[str, Any], wrong: list[str]) -> None:
    found = here.get("plugins") or {}
    for name, sha256 in (manifest.get("plugins") or {}).items():
        if sha256 in found.values():
            continue
        if name in found:
            wrong.append(f"the plugin library {name} is not the one the plan was built with")
        else:
            wrong.append(f"it needs the plugin library {name}")


def _version(here: Mapping[str, Any]) -> Version | None:
    try:
        return parse_version(str(here.get("tensorrt", "")))
    except PlanError:
        return None


def _capability(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in str(text).split(".") if part.isdigit())
