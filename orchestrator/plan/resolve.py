"""Keys, and what the store already knows: the one place where "cached" is decided.

``plan`` asks it once for every action; the executor asks it again whenever an input becomes known.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.backends.onnxruntime.installed import cpu_target
from orchestrator.plan.graph import Action
from orchestrator.plan.observed import Observer, key_part
from orchestrator.plan.secrets import Secrets
from orchestrator.plan.tools import versions
from orchestrator.stages.base import Repeats, Scope, Stage
from orchestrator.stages.catalogue import stage as find_stage
from orchestrator.store import digests
from orchestrator.store.results import Result
from orchestrator.store.store import Store

KEY_SCHEMA = 1
_NEVER = "not built before with these inputs"


class State(enum.Enum):
    """What is known about an action before it runs."""

    CACHED = "cached"
    RUNS = "runs"
    WAITS = "depends"


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """An action with as much of its key as is known.

    Attributes:
        state: Cached, runs, or waits for another action's output.
        key: The complete key when cached; otherwise the key to lock while the action runs (for user
            code: the first-level key, because what the code touches is known only afterwards).
        material: What *key* is the hash of.
        result: The cached result.
        reason: Why it runs or waits, in words.
        waits: The actions whose outputs are not known yet.
        warning: What was wrong with a damaged entry; '' when nothing was.
    """

    state: State
    key: str = ""
    material: Mapping[str, Any] = field(default_factory=dict)
    result: Result | None = None
    reason: str = ""
    waits: tuple[str, ...] = ()
    warning: str = ""


class Resolver:
    """Computes keys against one store, one machine and one installation."""

    def __init__(
        self,
        store: Store,
        observer: Observer,
        secrets: Secrets,
        *,
        rebuild: Collection[str] = (),
        fresh: Collection[str] = (),
    ) -> None:
        self._store = store
        self._observer = observer
        self._secrets = secrets
        self._rebuild = set(rebuild)
        self._fresh = set(fresh)
        self._versions: dict[tuple[str, ...], dict[str, str]] = {}
        self._machine: dict[str, Any] | None = None

    def resolve(self, action: Action, results: Mapping[str, Result]) -> Resolved:
        """Return what is known about *action* when the *results* of other actions are."""
        waits = tuple(
            sorted({ref.action for ref in action.inputs.values() if ref.action not in results})
        )
        if waits:
            return Resolved(state=State.WAITS, waits=waits)
        stage = find_stage(action.stage)
        material = self._material(action, stage, results)
        key = digests.of_json("action", material)
        if action.stage in self._rebuild:
            return Resolved(state=State.RUNS, key=key, material=material, reason="--rebuild")
        if stage.repeats is Repeats.MEASUREMENT:
            return self._measurement(key, material, fresh=action.id in self._fresh)
        if stage.user_code:
            return self._observed(stage, action, key, material)
        return self._known(stage, key, material, key, _NEVER)

    def complete(self, resolved: Resolved, record: Mapping[str, Any] | None) -> tuple[str, Any]:
        """Return key and material of a finished action; *record* is what its user code touched."""
        if record is None:
            return resolved.key, resolved.material
        observed = self._secrets.hide(key_part(record))
        material = {**resolved.material, "observed": observed}
        return digests.of_json("action", material), material

    def _material(
        self, action: Action, stage: Stage, results: Mapping[str, Result]
    ) -> dict[str, Any]:
        tools = stage.tools_for(action.params)
        return {
            "schema": KEY_SCHEMA,
            "stage": stage.name,
            "version": stage.version,
            "params": self._secrets.hide(action.params),
            "inputs": {
                name: results[ref.action].outputs[ref.output]
                for name, ref in action.inputs.items()
                if name not in action.unkeyed
            },
            "files": {name: file.digest for name, file in action.files.items()},
            "tools": self._tools((*tools, "python") if stage.user_code else tools),
            "machine": self._cpu() if stage.scope_for(action.params) is Scope.CPU else None,
            "salt": action.salt,
        }

    def _tools(self, names: tuple[str, ...]) -> dict[str, str]:
        # Remembered for one run only: a long process may see an upgrade between two.
        if names not in self._versions:
            self._versions[names] = versions(names)
        return self._versions[names]

    def _cpu(self) -> dict[str, Any]:
        if self._machine is None:
            self._machine = cpu_target()
        return self._machine

    def _known(self, stage: Stage, key: str, material: Any, lock: str, reason: str) -> Resolved:
        result, warning = self._store.lookup(key)
        if result is not None and set(result.outputs) != set(stage.outputs):
            warning = f"the stored result of {stage.name} is damaged: building it again"
            result = None
        if result is None:
            return Resolved(
                state=State.RUNS,
                key=lock,
                material=material,
                reason=warning or reason,
                warning=warning,
            )
        return Resolved(state=State.CACHED, key=key, material=material, result=result)

    def _measurement(self, key: str, material: Any, *, fresh: bool) -> Resolved:
        newest = None if fresh else self._store.results.newest_measurement(key)
        if newest is None:
            reason = "benchmark.fresh=true" if fresh else "not measured before on this machine"
            return Resolved(state=State.RUNS, key=key, material=material, reason=reason)
        return Resolved(state=State.CACHED, key=key, material=material, result=newest)

    def _observed(self, stage: Stage, action: Action, first: str, material: Any) -> Resolved:
        """User code: find a record that still holds; it completes the key."""
        changes: list[str] = []
        declared = {name: file.path for name, file in action.files.items()}
        for hidden in self._store.results.observations(first):
            record = self._secrets.reveal(hidden)
            found = self._observer.changed(record, declared)
            if found:
                changes = changes or found
                continue
            full = {**material, "observed": self._secrets.hide(key_part(record))}
            known = self._known(stage, digests.of_json("action", full), full, first, "")
            if known.state is State.CACHED or known.warning:
                return (
                    known
                    if known.result
                    else Resolved(
                        state=State.RUNS,
                        key=first,
                        material=material,
                        reason=known.reason,
                        warning=known.warning,
                    )
                )
        reason = "; ".join(changes[:3]) or _NEVER
        return Resolved(state=State.RUNS, key=first, material=material, reason=reason)
