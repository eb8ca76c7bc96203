"""``explain``: why each action of an experiment, or of a future run, hit or missed."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from orchestrator.config.batch import Batch, VariantReturn
from orchestrator.config.typed import composition
from orchestrator.plan.graph import Action
from orchestrator.plan.reasons import History, shortened
from orchestrator.plan.resolve import Resolved, State
from orchestrator.report.labels import label_of
from orchestrator.report.recorded import Recorded, makers
from orchestrator.session import Planned, planned
from orchestrator.stages.base import Repeats
from orchestrator.stages.catalogue import stage as find_stage
from orchestrator.store.results import Result, Results

_STYLES: Final[Mapping[str, str]] = {
    "cached": "cyan",
    "shared": "cyan",
    "ran": "green",
    "runs": "green",
    "depends": "yellow",
    "failed": "bold red",
    "skipped": "dim",
}
_UNITS: Final = (("day", 86400), ("h", 3600), ("min", 60), ("s", 1))
_FIRST: Final = "the first of its stage in this store"
_UNRECORDED: Final = "what its code touches was not on record; it gave what was stored already"
_AGAIN: Final[Mapping[Repeats, str]] = {
    Repeats.BYTES: _UNRECORDED,
    Repeats.VERDICT: _UNRECORDED,
    Repeats.MEASUREMENT: "measured again: benchmark.fresh=true, or --rebuild",
}
_GONE: Final = "its result is not in the store any more, so there is nothing to compare"


@dataclass(frozen=True, kw_only=True)
class Explained:
    """Why one action hit or missed.

    Attributes:
        label: What it is, for people.
        stage: Its stage.
        state: ``ran``, ``cached``, ``shared``, ``failed`` or ``skipped`` of an experiment;
            ``runs``, ``cached`` or ``depends`` of a future run.
        key: Its key as far as it is known.
        reason: Why, in one line.
        differences: What differs from the nearest earlier result of the stage, in sentences.
        nearest: The key of that result.
    """

    label: str
    stage: str
    state: str
    key: str | None
    reason: str
    differences: list[str] = field(default_factory=list)
    nearest: str | None = None


def explain_recorded(recorded: Recorded, stages: Collection[str] = ()) -> list[Explained]:
    """Explain the actions of an experiment directory from its manifest and its store.

    Args:
        recorded: The directory.
        stages: Only these; all when empty.
    """
    results = Results(recorded.store) if recorded.store is not None else None
    history = History(results) if results is not None else None
    made = makers(recorded.actions)
    sources = {digest: roles[0] for digest, roles in made.items() if len(roles) == 1}
    began = float(recorded.manifest.get("started") or 0)
    return [
        _explain_entry(one, history, sources, began)
        for one in recorded.actions
        if not stages or one["stage"] in stages
    ]


def _explain_entry(
    entry: Mapping[str, Any], history: History | None, sources: Mapping[str, str], began: float
) -> Explained:
    kept = {
        "label": entry["role"],
        "stage": entry["stage"],
        "state": entry["status"],
        "key": entry["key"],
    }
    match entry["status"]:
        case "ran":
            return _explain_run(kept, entry, history, sources, began)
        case "cached":
            built = began - float(entry["created"] or began)
            return Explained(**kept, reason=f"the same key as what was built {_ago(built)} before")
        case "shared":
            reason = "built once: another action of the run, or another process, has the same key"
            return Explained(**kept, reason=reason)
        case _:
            error = entry.get("error") or {}
            where, message = error.get("where", ""), error.get("message", "")
            return Explained(**kept, reason=f"{where}: {message}" if where else message)


def _explain_run(
    kept: dict[str, Any],
    entry: Mapping[str, Any],
    history: History | None,
    sources: Mapping[str, str],
    began: float,
) -> Explained:
    found = history.of(entry["stage"], entry["key"]) if history is not None else []
    if history is None or not found:
        return Explained(**kept, reason=_GONE)
    if any(one.created < began for one in found):
        return Explained(**kept, reason=_AGAIN[find_stage(entry["stage"]).repeats])
    nearest = history.nearest(found[0].material, before=began, sources=sources)
    if nearest is None:
        return Explained(**kept, reason=_FIRST)
    return Explained(
        **kept,
        reason=shortened(nearest.differences),
        differences=nearest.differences,
        nearest=nearest.result.key,
    )


class Explainer:
    """Explains each batch of a future run; nothing runs and no directory is made."""

    def __init__(self, stages: Collection[str] = ()) -> None:
        """Take the stages to explain; all when empty."""
        self._stages = stages
        self.entries: list[Explained] = []
        self.variants: list[str] = []

    def run(self, batch: Batch) -> list[VariantReturn]:
        """Explain one batch."""
        with planned(composition(batch)) as plan:
            self.variants += [variant.name for variant in plan.graph.variants]
            self.entries += _explain_plan(plan, self._stages)
        return [VariantReturn(passed=True) for _ in batch.variants]


def _explain_plan(plan: Planned, stages: Collection[str]) -> list[Explained]:
    history = History(plan.store.results)
    wanted = plan.graph.wanted_by()
    labels = {name: label_of(one, wanted[name]) for name, one in plan.graph.actions.items()}
    results: dict[str, Result] = {}
    sources: dict[str, str] = {}
    found = []
    for action in plan.graph.actions.values():
        resolved = plan.resolver.resolve(action, results)
        if resolved.result is not None:
            results[action.id] = resolved.result
            for digest in resolved.result.outputs.values():
                sources.setdefault(digest, labels[action.id].split(" · ")[0])
        if not stages or action.stage in stages:
            one = _explain_action(action, resolved, labels, history, sources)
            found.append(Explained(**plan.secrets.hide(asdict(one))))
    return found


def _explain_action(
    action: Action,
    resolved: Resolved,
    labels: Mapping[str, str],
    history: History,
    sources: Mapping[str, str],
) -> Explained:
    kept: dict[str, Any] = {
        "label": labels[action.id],
        "stage": action.stage,
        "state": resolved.state.value,
        "key": resolved.key or None,
    }
    if resolved.state is State.WAITS:
        needed = ", ".join(labels[name].split(" · ")[0] for name in resolved.waits)
        return Explained(**kept, reason=f"needs the output of {needed}")
    if resolved.state is State.CACHED:
        return Explained(**kept, reason="the same key as what is in the store")
    # What user code touched is known to have changed, or nothing is stored under the key.
    generic = resolved.reason.startswith("not ")
    nearest = history.nearest(resolved.material, sources=sources) if generic else None
    if nearest is None:
        return Explained(**kept, reason=_FIRST if generic else resolved.reason)
    return Explained(
        **kept,
        reason=shortened(nearest.differences),
        differences=nearest.differences,
        nearest=nearest.result.key,
    )


def print_explained(console: Console, entries: Collection[Explained]) -> None:
    """Print one line an action."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("state", "action", "why"):
        table.add_column(heading, overflow="fold")
    for entry in entries:
        style = _STYLES.get(entry.state, "")
        state = f"[{style}]{escape(entry.state)}[/]" if style else escape(entry.state)
        table.add_row(state, escape(entry.label), escape(entry.reason))
    console.print(table)


def _ago(seconds: float) -> str:
    """Return a length of time in its largest unit."""
    unit, size = next((one for one in _UNITS if seconds >= one[1]), _UNITS[-1])
    number = int(max(seconds, 0) // size)
    return f"{number} {unit}{'s' * (unit == 'day' and number != 1)}"
