"""``plan``: every action with what is known about it before anything runs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from orchestrator.config.batch import Batch, VariantReturn
from orchestrator.config.typed import composition
from orchestrator.plan.graph import Graph
from orchestrator.plan.reasons import History, shortened
from orchestrator.plan.resolve import Resolved, State
from orchestrator.report.labels import label_of
from orchestrator.session import planned, stages_named
from orchestrator.store.results import Result

#: The store's results, read when first asked for.
Past = Callable[[], History]
_STYLES = {State.CACHED: "cyan", State.RUNS: "green", State.WAITS: "yellow"}


class Planner:
    """Collects the plan of each batch; nothing runs and no directory is made."""

    def __init__(self, rebuild: Collection[str]) -> None:
        """Take the stages to plan as if they were not stored.

        Raises:
            UsageError: there is no such stage.
        """
        self._rebuild = stages_named(rebuild)
        self.entries: list[dict[str, Any]] = []
        self.variants: list[str] = []
        self.commands: dict[str, str] = {}
        self.notes: dict[str, list[str]] = {}
        self.matrix: dict[str, Any] | None = None
        self.lines: list[str] = []
        self.warnings: list[str] = []

    def run(self, batch: Batch) -> list[VariantReturn]:
        """Plan one batch."""
        composed = composition(batch)
        with planned(composed, self._rebuild) as plan:
            if composed.announcement is not None and composed.first:
                self.matrix = plan.secrets.hide(composed.announcement.rules)
                self.lines = plan.secrets.hide(composed.announcement.lines)
                self.warnings = plan.secrets.hide(composed.announcement.warnings)
            results: dict[str, Result] = {}
            history = cache(lambda: History(plan.store.results))
            for action in plan.graph.actions.values():
                resolved = plan.resolver.resolve(action, results)
                if resolved.result is not None:
                    results[action.id] = resolved.result
                entry = _entry(plan.graph, action.id, resolved, history)
                self.entries.append(plan.secrets.hide(entry))
            for variant in plan.graph.variants:
                self.variants.append(variant.name)
                if variant.command:
                    self.commands[variant.name] = plan.secrets.hide_text(variant.command)
                if variant.notes:
                    self.notes[variant.name] = plan.secrets.hide(variant.notes)
        return [VariantReturn(passed=True) for _ in batch.variants]

    def as_json(self) -> dict[str, Any]:
        """Return the plan as JSON."""
        return {
            "schema": 1,
            "variants": self.variants,
            "actions": self.entries,
            "commands": self.commands,
            "notes": self.notes,
            "matrix": self.matrix,
            "warnings": self.warnings,
        }


def print_plan(console: Console, planner: Planner) -> None:
    """Print one line an action, and how many there are of each state."""
    for line in planner.lines:
        console.print(line, highlight=False, markup=False)
    for line in planner.warnings:
        console.print(f"[yellow]warning:[/] {escape(line)}", highlight=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("state", "action", "why"):
        table.add_column(heading, overflow="fold")
    for entry in planner.entries:
        style = _STYLES[State(entry["state"])]
        table.add_row(
            f"[{style}]{entry['state']}[/]", escape(entry["label"]), escape(entry["reason"])
        )
    console.print(table)
    counts = {
        state.value: sum(entry["state"] == state.value for entry in planner.entries)
        for state in State
    }
    total = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    number = len(planner.variants)
    console.print(f"\n{number} variant{'s' * (number != 1)}: {total}", highlight=False)
    for name, notes in planner.notes.items():
        for note in notes:
            console.print(f"[yellow]note[/] {escape(name)}: {escape(note)}", highlight=False)
    if planner.commands:
        console.print("\nThe same engines by trtexec, from the verified ONNX files:")
    for name, command in planner.commands.items():
        # One line each, whatever the terminal's width: it is there to be copied.
        console.print(f"[dim]# {escape(name)}[/]", highlight=False)
        console.print(escape(command), highlight=False, soft_wrap=True)


def _entry(graph: Graph, identity: str, resolved: Resolved, history: Past) -> dict[str, Any]:
    action = graph.actions[identity]
    wanted = graph.wanted_by()[identity]
    return {
        "label": label_of(action, wanted),
        "stage": action.stage,
        "state": resolved.state.value,
        "reason": _reason(graph, resolved, history),
        "key": resolved.key or None,
        "variants": [variant.name for variant in wanted],
        "depends_on": [graph.actions[name].stage for name in resolved.waits],
    }


def _reason(graph: Graph, resolved: Resolved, history: Past) -> str:
    if resolved.state is State.WAITS:
        return "needs the output of " + ", ".join(_names(graph, resolved.waits))
    if resolved.state is State.CACHED:
        return ""
    if not resolved.reason.startswith("not "):
        return resolved.reason
    nearest = history().nearest(resolved.material)
    return (shortened(nearest.differences) if nearest is not None else "") or resolved.reason


def _names(graph: Graph, identities: Sequence[str]) -> list[str]:
    wanted: Mapping[str, Any] = graph.wanted_by()
    return [label_of(graph.actions[name], wanted[name]).split(" · ")[0] for name in identities]
