"""The words of the configuration for what stands in a key."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

_SHORT: Final = 40
#: Parameter of a stage → its key in the configuration; others have the same name there.
_MODEL: Final[Mapping[str, str]] = {
    "factory": "model.factory",
    "args": "model.args",
    "checkpoint": "model.checkpoint",
    "inputs": "model.inputs",
    "order": "the order of model.inputs",
    "outputs": "model.outputs",
    "dims": "model.dims",
    "batches": "model.batches",
    "further": "profile.further",
    "metric": "model.task.metric",
    "output": "model.task.output",
    "backend_version": "the backend's version",
    "uuid": "the GPU",
    "data": "model.samples",
    "count": "the number of items",
}
#: What a samples action is for → where its data and its number of items are configured.
_DATA: Final[Mapping[str, tuple[str, str]]] = {
    "compare": ("model.samples", "the number of items"),
    "calibration": ("model.calibration", "calibration.count"),
    "task": ("model.task.data", "model.task.count"),
}
#: Part of a target's parameters → its key in the configuration.
_TARGET: Final[Mapping[str, str]] = {
    "options": "target",
    "word": "precision",
    "precision": "precision",
    "profiles": "profile",
    "inputs": "model.inputs",
    "outputs": "model.outputs",
}
_CODE: Final[Mapping[str, str]] = {"samples": "data source", "score": "metric source"}
_FILES: Final[Mapping[str, str]] = {
    "checkpoint": "weights of the checkpoint",
    "onnx": "the ONNX file (model.onnx)",
}
_ABSENT: Final = "none"


@dataclass(frozen=True, kw_only=True)
class Words:
    """What sentences about one action need.

    Attributes:
        stage: The stage.
        purpose: What a samples action is for; '' for other stages.
        sources: Where inputs come from: tree digest → role of an action.
        places: The file of each module that user code imported.
    """

    stage: str
    purpose: str = ""
    sources: Mapping[str, str] = field(default_factory=dict)
    places: Mapping[str, str] = field(default_factory=dict)


def sentence(path: tuple[str, ...], old: Any, new: Any, words: Words) -> Iterator[str]:
    """Yield the sentence for one difference; *path* leads to it in a key's material."""
    part, names = path[0], path[1:]
    match part:
        case "params":
            yield f"{_key(names, words)} {short(old)} → {short(new)}"
        case "tools":
            yield f"{'.'.join(names)} {short(old)} → {short(new)}"
        case "files":
            yield f"{_file('.'.join(names), words)} {_became(old, new)}"
        case "inputs":
            source = words.sources.get(str(new), "")
            origin = f" (from {source})" if source else ""
            yield f"its input '{'.'.join(names)}' {_became(old, new)}{origin}"
        case "machine":
            yield _processor(old, new)
        case "salt":
            yield f"cache.salt {short(old)} → {short(new)}"
        case "version":
            yield f"the stage's version {short(old)} → {short(new)} (another orchestrate)"
        case _:
            yield f"{'.'.join(path)} {short(old)} → {short(new)}"


def added_removed_changed(part: str, name: str, old: Any, new: Any, words: Words) -> str:
    """Return the sentence for one thing that user code touched; *part* as in a record."""
    match part:
        case "modules":
            place = _shown(words.places.get(name, name))
            return f"{_CODE.get(words.stage, 'model source')} {_became(old, new)}: {place}"
        case "distributions":
            before, after = (str(one or _ABSENT).partition(" ")[0] for one in (old, new))
            what = f"{before} → {after}" if before != after else "reinstalled with other contents"
            return f"{name} {what}"
        case "listings":
            return f"the directory {_shown(name)} has other files in it"
        case "environment":
            return f"the environment variable {name} {_became(old, new)}"
        case _:
            return f"the file {_shown(name)} {_became(old, new)}"


def short(value: Any) -> str:
    """Return a value as it fits into a sentence."""
    text = _ABSENT if value is None or value == "" else str(value)
    return text if len(text) <= _SHORT else f"{text[:_SHORT]}…"


def _key(names: tuple[str, ...], words: Words) -> str:
    first, *rest = names
    if first == "target" and rest and rest[0] in _TARGET:
        return ".".join([_TARGET[rest[0]], *rest[1:]])
    if words.stage == "samples":
        data, count = _DATA.get(words.purpose, _DATA["compare"])
        # These are the model's, narrowed by the profile.
        own = {"data": data, "count": count, "dims": "dims"}
        if first in own:
            return ".".join([own[first], *rest])
    return ".".join([_MODEL.get(first, first), *rest])


def _file(name: str, words: Words) -> str:
    data = _DATA.get(words.purpose, _DATA["compare"])[0]
    if name == "data":
        return f"the data of {data}"
    if name == "labels" or name.startswith("data."):
        return f"{data}.{name.replace('data.', 'arrays.', 1)}"
    kind, _, number = name.partition(".")
    if number.isdecimal():
        return {"file": "model.files", "plugin": "target.plugins"}.get(kind, kind) + f"[{number}]"
    return _FILES.get(name, f"the file '{name}'")


def _shown(place: str) -> str:
    """Return a place (see :mod:`orchestrator.plan.places`) without what it is named from."""
    return place.partition("/")[2] or place if place.startswith("@") else place


def _became(old: Any, new: Any) -> str:
    if old is None:
        return "added"
    return "removed" if new is None else "changed"


def _processor(old: Any, new: Any) -> str:
    before, after = (one.get("model") if isinstance(one, Mapping) else None for one in (old, new))
    names = f": {before} → {after}" if before and after and before != after else ""
    return f"another processor{names}"
