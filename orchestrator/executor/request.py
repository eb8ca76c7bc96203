"""What a worker is asked to do: the content of ``request.json``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from orchestrator.plan.graph import Action
from orchestrator.plan.resolve import Resolved
from orchestrator.store.results import Result
from orchestrator.store.store import Store

# A fixed number: the order of float sums, and so a result's bytes, depend on it.
_THREADS: Final = 1


def request_for(
    action: Action,
    resolved: Resolved,
    store: Store,
    results: Mapping[str, Result],
    base: Path,
    device: str,
) -> dict[str, Any]:
    """Return the request (JSON) of *action*, whose inputs are among *results* by action id.

    *device* is which of the action's devices it has; its worker is told where there are several.
    """
    chosen = {"gpu": device} if len(action.devices) > 1 else {}
    return {
        "stage": action.stage,
        "params": action.params,
        "inputs": {
            name: str(store.trees.path(results[ref.action].outputs[ref.output]))
            for name, ref in action.inputs.items()
        },
        "files": {name: str(file.path) for name, file in action.files.items()},
        "identities": {name: file.identity for name, file in action.files.items()},
        "tools": resolved.material["tools"],
        "machine": resolved.material["machine"],
        "base": str(base),
        "store": str(store.root),
        "threads": _THREADS,
        "reach": {**action.reach, **chosen},
    }
