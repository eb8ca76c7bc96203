"""Whether a plan will load, for people and as JSON: the verdict, the facts, what to do."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from orchestrator.report.table import size_text

if TYPE_CHECKING:
    from orchestrator.backends.tensorrt.here import Here
    from orchestrator.backends.tensorrt.plan_file import Preflight

Json = dict[str, Any]

VERDICTS: Final = {True: "will load", False: "will not load", None: "not known"}
_STYLES: Final = {True: "bold green", False: "bold red", None: "bold yellow"}
_INTACT: Final = {
    True: "as its manifest says",
    False: "not what its manifest says",
    None: "not held against a manifest",
}
_COMPATIBLE: Final = {
    "ampere_plus": "compute capability >= 8.0",
    "same_compute_capability": "any device of its compute capability",
}
_MOST: Final = 8  # inputs, outputs or profiles shown; --json has all
_LARGEST_BYTES: Final = 1 << 60  # more is no memory
_WIDEST: Final = 120  # characters of a value of unknown form


def as_json(plan: Path, found: Preflight, here: Here) -> Json:
    """Return everything that is known, for ``--json``."""
    return {
        "plan": str(plan),
        "bytes": plan.stat().st_size,
        "tensorrt": found.version or None,
        "intact": found.intact,
        "verdict": VERDICTS[found.loads],
        "loads": found.loads,
        "reasons": [{"text": one.text, "hint": one.hint} for one in found.findings],
        "warnings": list(found.warnings),
        "here": {
            "source": here.source,
            "problem": here.problem.text if here.problem else None,
            **here.identity,
        },
        "manifest": found.manifest,
    }


def print_preflight(console: Console, plan: Path, found: Preflight, here: Here) -> None:
    """Print the verdict, the facts, and then the reasons with what to do."""
    verdict = Text.assemble((VERDICTS[found.loads], _STYLES[found.loads]), "  ", _plain(plan))
    console.print(verdict, overflow="fold")
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in facts(plan, found, here):
        table.add_row(f"  {name}", Text(_plain(text)))
    console.print(table)
    mark = "?" if found.loads is None else "×"
    marked = [(mark, _STYLES[found.loads], reason) for reason in found.reasons]
    marked += [("!", "yellow", warning) for warning in found.warnings]
    marked += [("→", "", hint) for hint in found.hints]
    if here.toolchain and here.problem and here.problem not in found.findings:
        # It is no reason, but what was asked for did not happen.
        marked += [("!", "yellow", here.problem.text), ("→", "", here.problem.hint)]
    if marked:
        console.print()
    for mark, style, text in marked:
        _print_line(console, mark, style, text)


def _print_line(console: Console, mark: str, style: str, text: str) -> None:
    table = Table.grid(padding=(0, 1))
    table.add_column(style=style, no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row(mark, Text(_plain(text)))
    console.print(table)


def facts(plan: Path, found: Preflight, here: Here) -> Iterator[tuple[str, str]]:
    """Yield name and text of each line about *plan* and what is *here*."""
    manifest = found.manifest or {}
    built = manifest.get("built", {})
    if found.version:
        yield "built with", _joined(f"TensorRT {found.version}", _cuda(built))
    if built:
        yield "built on", _joined(_device(built), built.get("platform"))
    yield "here", f"{_site(here)} ({here.source})"
    yield "file", f"{size_text(plan.stat().st_size)}, {_INTACT[found.intact]}"
    wider = list(_wider(manifest.get("compatibility", {})))
    if wider:
        yield "also loads in", ", ".join(wider)
    if "precision" in manifest:
        word = str(manifest.get("precision_name") or "")
        told = _precision(manifest["precision"])
        yield "precision", f"{word} ({told})" if word else told
    for name in ("inputs", "outputs"):
        if manifest.get(name):
            yield name, _listed(manifest[name], _tensor)
    if manifest.get("profiles"):
        yield "profiles", _listed(manifest["profiles"], _profile)
    if manifest.get("plugins"):
        yield "plugins", ", ".join(manifest["plugins"])


def _site(here: Here) -> str:
    identity = here.identity
    version = identity.get("tensorrt")
    driver = identity.get("driver")
    gpus = identity.get("gpus") or []
    return _joined(
        f"TensorRT {version}" if version else "TensorRT not known",
        _cuda(identity),
        _device(identity) or ", ".join(map(str, gpus)) or "no GPU known",
        f"driver {driver}" if driver else "",
        identity.get("platform"),
    )


def _cuda(identity: Mapping[str, Any]) -> str:
    return f"CUDA {identity['cuda_runtime']}" if identity.get("cuda_runtime") else ""


def _device(identity: Mapping[str, Any]) -> str:
    device = identity.get("device") or {}
    capability, count = device.get("compute_capability"), device.get("sms")
    memory = device.get("memory_bytes")
    return _joined(
        device.get("name"),
        f"compute capability {capability}" if capability else "",
        f"{count} SMs" if count else "",
        size_text(memory) if isinstance(memory, int) and 0 < memory < _LARGEST_BYTES else "",
    )


def _wider(compatibility: Mapping[str, Any]) -> Iterator[str]:
    """Yield what a plan loads in besides what it was built with."""
    if compatibility.get("version"):
        without = "" if compatibility.get("lean_runtime", True) else " (with its lean runtime)"
        yield f"later TensorRT versions{without}"
    wider = _COMPATIBLE.get(str(compatibility.get("hardware")))
    if wider:
        yield wider


def _precision(value: Any) -> str:
    """Return what the builder was told, in words (``versions.Lowering.request``)."""
    if not isinstance(value, dict) or value.get("mode") not in ("weak", "strong"):
        return _value(value)
    flags, kept = value.get("flags"), (value.get("keep_layers"), value.get("keep_op_types"))
    typed = value["mode"] == "strong"
    return _joined(
        "typed by the ONNX model" if typed else "",
        "" if typed else " ".join(map(str, flags)) if isinstance(flags, list) and flags else "FP32",
        "TF32 on" if value.get("tf32") else "TF32 off",
        "some operators kept in fp32" if any(kept) else "",
    )


def _listed(value: Any, form: Any) -> str:
    """Return one line for each entry, or the value itself where it is no list of objects."""
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        return _value(value)
    lines = [form(one) for one in value[:_MOST]]
    if len(value) > _MOST:
        lines.append(f"… and {len(value) - _MOST} more")
    return "\n".join(lines)


def _tensor(port: Mapping[str, Any]) -> str:
    known = ("name", "dtype", "shape")
    return " ".join(_value(port[key]) for key in known if key in port) or _value(port)


def _profile(profile: Mapping[str, Any]) -> str:
    return "; ".join(f"{name} {_points(points)}" for name, points in profile.items())


def _points(points: Any) -> str:
    if not isinstance(points, dict) or not all(
        isinstance(points.get(name), list) for name in ("min", "opt", "max")
    ):
        return _value(points)
    sizes = ["x".join(map(str, points[name])) for name in ("min", "opt", "max")]
    return " … ".join(dict.fromkeys(sizes))


def _value(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= _WIDEST else f"{text[:_WIDEST]}…"


def _joined(*parts: Any) -> str:
    return ", ".join(_value(part) for part in parts if part)


def _plain(value: Any) -> str:
    """Return *value* as text that a terminal shows and does not obey: it may be anyone's."""
    return "".join(
        letter if letter.isprintable() or letter == "\n" else "?" for letter in str(value)
    )
