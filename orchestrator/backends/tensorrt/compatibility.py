"""Whether a TensorRT, its device and its plugin libraries fit what a plan was built with.

TensorRT itself has no such check (the C++ and Python interfaces of 8.6 to 11.4): it loads, or says
why not. The rules here are those of NVIDIA's support matrix and of the messages that 8.6 gave.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from orchestrator.backends.tensorrt.versions import Version, parse_version
from orchestrator.errors import PlanError

#: Properties of a device that decide speed and memory, not whether a plan loads.
_SAME_MODEL: Final = ("name", "sms", "memory_gib", "l2_bytes")
#: (built by, loaded by): the majors whose version-compatible plans load in another (matrix, 11.4).
_ACROSS_MAJORS: Final = ((8, 10), (10, 11))
_AMPERE: Final = (8, 0)
_WINDOWS: Final = "win32-AMD64"  # as the worker names the system that it runs on


@dataclass(frozen=True)
class Reason:
    """Why a plan does not load, or why that is not known; *hint* says what to do."""

    text: str
    hint: str = ""


@dataclass(kw_only=True)
class Findings:
    """What was found so far.

    Attributes:
        wrong: Why the plan will not load.
        unknown: What would have to be known to say that it will.
        warnings: What may make it slow or fail although it loads.
    """

    wrong: list[Reason] = field(default_factory=list)
    unknown: list[Reason] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def check_version(
    built: Sequence[int],
    manifest: Mapping[str, Any] | None,
    here: Mapping[str, Any],
    found: Findings,
) -> None:
    """Hold TensorRT's version here against the one that built a plan.

    Args:
        built: Major, minor, patch and build in the plan's header.
        manifest: The plan's manifest; None when it has none.
        here: Its ``tensorrt`` is the version; none there is nothing known.
        found: Takes the findings.
    """
    version = _version(here)
    if version is None:
        found.unknown.append(Reason("the version of TensorRT here is not known"))
        return
    parts = version.parts[:4]
    if parts == tuple(built[: len(parts)]):
        return
    newer = parts > tuple(built[: len(parts)])
    made_by = ".".join(map(str, built))
    compatibility = (manifest or {}).get("compatibility", {})
    if not compatibility.get("version"):
        found.wrong.append(_other_version(made_by, version, manifest, newer=newer))
        return
    if version.major == built[0] and not newer:
        found.unknown.append(
            Reason(
                f"it is version-compatible, but was built by a newer TensorRT {made_by} than "
                f"{version}",
                f"build it again with TensorRT {version}",
            )
        )
    elif version.major != built[0] and (built[0], version.major) not in _ACROSS_MAJORS:
        found.wrong.append(
            Reason(
                f"version-compatible plans of TensorRT {built[0]} do not load in {version.major}",
                f"build it again with TensorRT {version}",
            )
        )
    if not compatibility.get("lean_runtime", True):
        found.unknown.append(
            Reason(
                f"it needs the lean runtime of TensorRT {made_by}, which is not in the plan",
                f"load it with that of TensorRT {made_by} (Runtime.load_runtime), or build it "
                "with target.exclude_lean_runtime=false",
            )
        )


def _other_version(
    made_by: str, version: Version, manifest: Mapping[str, Any] | None, *, newer: bool
) -> Reason:
    text = f"it was built by TensorRT {made_by}, here is {version}, and "
    text += (
        "no manifest says that it is version-compatible"
        if manifest is None
        else "it is not version-compatible"
    )
    hint = f"build it again with TensorRT {version}, or load it with {made_by}"
    if newer and manifest is not None:
        hint += "; later versions load plans that were built with target.version_compatible=true"
    return Reason(text, hint)


def check_device(manifest: Mapping[str, Any], here: Mapping[str, Any], found: Findings) -> None:
    """Hold system and device here against those that a plan was built on, or for.

    Args:
        manifest: The plan's manifest.
        here: Its ``platform`` and ``device`` are compared; what it lacks is not known.
        found: Takes the findings.
    """
    built, compatibility = manifest.get("built", {}), manifest.get("compatibility", {})
    wanted = built.get("platform")
    if compatibility.get("platform") == "windows_amd64":
        wanted = _WINDOWS
    platform = str(here.get("platform") or "")
    if wanted and platform and str(wanted).lower() != platform.lower():
        found.wrong.append(
            Reason(
                f"it is for {wanted}, here is {platform}",
                f"build it again on {platform}: plans do not move between systems",
            )
        )
    then, now = built.get("device") or {}, here.get("device") or {}
    _check_capability(then, now, str(compatibility.get("hardware", "none")), found)


def _check_capability(
    then: Mapping[str, Any], now: Mapping[str, Any], level: str, found: Findings
) -> None:
    built, has = then.get("compute_capability"), now.get("compute_capability")
    if not built or not has:
        whose = "here" if built else "of the build"
        found.unknown.append(Reason(f"the compute capability {whose} is not known"))
    elif level == "ampere_plus" and _capability(built) >= _AMPERE:
        if _capability(has) < _AMPERE:
            found.wrong.append(
                Reason(f"it is for compute capability >= 8.0, here is {has}", "build it again here")
            )
    elif built != has:
        hint = "build it again on this device"
        if min(_capability(built), _capability(has)) >= _AMPERE:
            hint += ", or there with target.hardware_compatibility=ampere_plus"
        found.wrong.append(Reason(f"it is for compute capability {built}, here is {has}", hint))
    elif level == "none":
        found.warnings.extend(_another_model(then, now))


def _another_model(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    differs = [
        f"{key} {then[key]}, here {now[key]}"
        for key in _SAME_MODEL
        if key in then and key in now and then[key] != now[key]
    ]
    if not differs:
        return []
    return [
        f"it was tuned on another device ({'; '.join(differs)}): it may be slow, or fail for lack "
        "of memory"
    ]


def check_plugins(manifest: Mapping[str, Any], here: Mapping[str, Any], found: Findings) -> None:
    """Hold the plugin libraries here against those that a plan was built with, by SHA-256.

    Args:
        manifest: The plan's manifest.
        here: Its ``plugins`` are {file name: SHA-256}.
        found: Takes the findings.
    """
    libraries = here.get("plugins") or {}
    for name, sha256 in (manifest.get("plugins") or {}).items():
        if sha256 in libraries.values():
            continue
        if name in libraries:
            found.wrong.append(
                Reason(
                    f"the plugin library {name} is not the one the plan was built with",
                    f"use the {name} whose SHA-256 begins with {sha256[:12]}, or build it again "
                    "with this one",
                )
            )
        else:
            found.wrong.append(
                Reason(
                    f"it needs the plugin library {name}",
                    f"load {name} (SHA-256 {sha256[:12]}…) before the plan; --plugin PATH tells "
                    "check-plan where it is",
                )
            )


def _version(here: Mapping[str, Any]) -> Version | None:
    try:
        return parse_version(str(here.get("tensorrt", "")))
    except PlanError:
        return None


def _capability(text: Any) -> tuple[int, ...]:
    return tuple(int(part) for part in str(text).split(".") if part.isdecimal())
