"""Whether a second build of a variant equals the first, in the sense that each stage declares."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from orchestrator.config.schema import Config
from orchestrator.plan.gates import failures
from orchestrator.plan.graph import Gate
from orchestrator.plan.reasons import History, shortened
from orchestrator.report.recorded import makers
from orchestrator.stages.base import Repeats
from orchestrator.stages.catalogue import NAMES
from orchestrator.stages.catalogue import stage as find_stage
from orchestrator.store.results import Result

Entry = Mapping[str, Any]
Verdict = Literal["same bytes", "same verdict", "same failure", "differs", "not compared"]

_NO_SAME_BYTES: Final = "the key is the same, but what came of it is not"


@dataclass(frozen=True, kw_only=True)
class Line:
    """How one action of the second build compares with the first."""

    role: str
    stage: str
    verdict: Verdict
    text: str


@dataclass(frozen=True, kw_only=True)
class Build:
    """One build of a variant: its manifest and its store's results (None when that is gone)."""

    manifest: Mapping[str, Any]
    history: History | None

    @property
    def entries(self) -> dict[str, Entry]:
        """The manifest's actions by role, in the order of the chain."""
        return {str(entry["role"]): entry for entry in self.manifest["actions"]}

    def material(self, entry: Entry) -> Mapping[str, Any] | None:
        """Return what the key of an action is the hash of, where its store still has it."""
        if self.history is None or not entry["key"]:
            return None
        found = self.history.of(str(entry["stage"]), str(entry["key"]))
        return found[0].material if found else None


def compare(first: Build, second: Build, config: Config) -> list[Line]:
    """Compare two builds of the variant that *config* describes, action by action.

    An action that promises the same bytes must give them from the same inputs. Where an input comes
    from a stage that promises the same verdict only, the verdicts behind it decide.
    """
    return _Comparison(first, second, config).lines()


class _Comparison:
    def __init__(self, first: Build, second: Build, config: Config) -> None:
        self._first, self._second, self._config = first, second, config
        self._makers = makers(second.manifest["actions"])
        self._sources = {tree: one[0] for tree, one in self._makers.items() if len(one) == 1}
        #: Roles that have other bytes, as they may: the same verdict is all that was promised.
        self._loose: set[str] = set()

    def lines(self) -> list[Line]:
        second = self._second.entries
        found = [
            self._line(role, entry, second.get(role)) for role, entry in self._first.entries.items()
        ]
        found += [
            _line(entry, "differs", "it was not part of the recorded build")
            for role, entry in second.items()
            if role not in self._first.entries
        ]
        return found

    def _line(self, role: str, old: Entry, new: Entry | None) -> Line:
        if old["stage"] not in NAMES:
            return _line(old, "differs", "this version of orchestrate has no such stage")
        stage = find_stage(str(old["stage"]))
        if stage.repeats is Repeats.MEASUREMENT:
            return _line(old, "not compared", "a measurement")
        if new is None:
            return _line(old, "differs", "it is not part of a build by this orchestrate")
        if not _has_result(old) or not _has_result(new):
            return self._unfinished(old, new)
        if _same(old, new):
            alike = "" if old["outputs"] else "the same values"
            return _line(old, "same bytes", _from_store(new) or self._why(old, new) or alike)
        if stage.repeats is Repeats.VERDICT or self._excused(old, new):
            self._loose.add(role)
            return self._by_verdict(role, old, new)
        return _line(old, "differs", self._why(old, new) or _NO_SAME_BYTES)

    def _unfinished(self, old: Entry, new: Entry) -> Line:
        before, now = _message(old), _message(new)
        if _has_result(new):
            if self._first.manifest.get("status") == "interrupted":
                return _line(old, "not compared", "the recorded build was interrupted before it")
            return _line(old, "differs", f"it {_past(old)} then: {before}")
        if _has_result(old):
            return _line(old, "differs", f"it {_past(new)} now: {now}")
        if old["status"] == new["status"]:
            return _line(old, "same failure", now)
        # Of two that fail, the one that ends first leaves the other out.
        return _line(old, "not compared", f"{_past(old)} then: {before}; {_past(new)} now: {now}")

    def _excused(self, old: Entry, new: Entry) -> bool:
        """Whether nothing but inputs that may have other bytes tells the two apart."""
        before, after = self._first.material(old), self._second.material(new)
        if old["key"] == new["key"] or after is None:
            return False
        inputs = after["inputs"].items()
        loose = {name for name, tree in inputs if self._made_by(tree, self._loose)}
        if before is None:  # the recorded store is gone: other differences cannot be told
            return bool(loose)
        others = _without(after, loose)
        return bool(loose) and _without(before, loose) == others

    def _by_verdict(self, role: str, old: Entry, new: Entry) -> Line:
        gates = self._gates_behind(role)
        before, now = self._verdicts(self._first, gates), self._verdicts(self._second, gates)
        wrong = [
            f"{name} was {before.get(name, 'absent')}, is {now.get(name, 'absent')}"
            for name in gates
            if before.get(name) != now.get(name)
        ]
        why = self._why(old, new)
        if wrong:
            return _line(old, "differs", "; ".join([*wrong, *([why] if why else [])]))
        judged = ", ".join(f"{name} {now[name]}" for name in gates if name in now)
        told = f"other bytes; {judged}" if judged else "other bytes; nothing judges them"
        return _line(old, "same verdict", f"{told}; {why}" if why else told)

    def _gates_behind(self, role: str) -> list[str]:
        """Return the names of the gates that *role* leads to; all where that is not known."""
        reached, known = {role}, True
        for other, entry in self._second.entries.items():
            material = self._second.material(entry)
            if material is None:
                known = known and not _has_result(entry)
                continue
            if any(self._made_by(tree, reached) for tree in material["inputs"].values()):
                reached.add(other)
        gates = self._first.manifest["gates"]
        return [str(gate["name"]) for gate in gates if not known or _role_of_gate(gate) in reached]

    def _made_by(self, tree: str, roles: set[str]) -> bool:
        return not roles.isdisjoint(self._makers.get(tree, []))

    def _verdicts(self, build: Build, names: list[str]) -> dict[str, str]:
        found = {}
        for gate in build.manifest["gates"]:
            entry = build.entries.get(_role_of_gate(gate))
            if gate["name"] in names and entry is not None and _has_result(entry):
                found[str(gate["name"])] = _judged(gate, entry, self._config)
        return found

    def _why(self, old: Entry, new: Entry) -> str:
        """Return how the keys differ; '' when they do not, or it is not known."""
        before, after = self._first.material(old), self._second.material(new)
        history = self._second.history
        if old["key"] == new["key"] or history is None:
            return ""
        if before is None or after is None:
            return "another key; the recorded one is not in its store any more"
        return shortened(history.differences(before, after, self._sources))


def changed_tools(first: Build, second: Build) -> list[str]:
    """Return the tools whose versions differ: ``torch 2.9 → 2.10``."""
    found: dict[str, None] = {}
    for role, entry in first.entries.items():
        before, now = entry["tools"], second.entries.get(role, {}).get("tools", {})
        for name in sorted({*before} & {*now}):
            if before[name] != now[name]:
                found[f"{name} {before[name]} → {now[name]}"] = None
    return list(found)


def machine_of(build: Build) -> Mapping[str, Any] | None:
    """Return the processor that a build depended on, where its store still says so."""
    materials = (build.material(entry) for entry in build.manifest["actions"])
    return next((one["machine"] for one in materials if one and one.get("machine")), None)


def _line(entry: Entry, verdict: Verdict, text: str) -> Line:
    return Line(role=str(entry["role"]), stage=str(entry["stage"]), verdict=verdict, text=text)


def _has_result(entry: Entry) -> bool:
    return entry["status"] in ("ran", "cached", "shared")


def _from_store(new: Entry) -> str:
    return "from the store, not run again" if new["status"] == "cached" else ""


def _same(old: Entry, new: Entry) -> bool:
    """Whether the output trees are equal; of an action without any, its values."""
    if old["outputs"] or new["outputs"]:
        return bool(old["outputs"] == new["outputs"])
    return bool(old["values"] == new["values"])


def _without(material: Mapping[str, Any], inputs: set[str]) -> dict[str, Any]:
    kept = {name: one for name, one in material["inputs"].items() if name not in inputs}
    return {**material, "inputs": kept}


def _message(entry: Entry) -> str:
    error = entry.get("error") or {}
    return str(error.get("message", "")) or "it gave no reason"


def _past(entry: Entry) -> str:
    return "failed" if entry["status"] == "failed" else "was not reached"


def _role_of_gate(gate: Mapping[str, Any]) -> str:
    return f"judge {gate['name']}" if gate["check"] == "judge" else str(gate["check"])


def _judged(gate: Mapping[str, Any], entry: Entry, config: Config) -> str:
    """Return the verdict on stored numbers, in words."""
    made = Gate(name=gate["name"], check=gate["check"], action="", precision=gate["precision"])
    values = Result(key="", stage=entry["stage"], material={}, outputs={}, values=entry["values"])
    passed = "failed" if failures(made, config, values) else "passed"
    return f"{entry['values']['verdict']} ({passed})" if gate["check"] == "audit" else passed
