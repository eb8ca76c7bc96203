"""The live view: what runs, what is done, on a terminal and in a pipe."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from orchestrator.executor.outcome import Finished
from orchestrator.plan.graph import Action, Variant

_MARKS: Mapping[str, tuple[str, str]] = {
    "ran": ("✓", "green"),
    "cached": ("=", "cyan"),
    "shared": ("=", "cyan"),
    "failed": ("✗", "bold red"),
    "skipped": ("–", "dim"),
}


class LiveView:
    """Implements :class:`orchestrator.executor.outcome.Listener` on a rich console.

    On a terminal, running actions are lines that move; finished ones scroll up. In a pipe, and with
    *verbose*, every event is a plain line. *quiet* shows nothing. *hide* takes secrets out of what
    is shown.
    """

    def __init__(
        self,
        console: Console,
        *,
        quiet: bool = False,
        verbose: bool = False,
        hide: Callable[[str], str] = str,
    ) -> None:
        self._console = console
        self._hide = hide
        self._quiet, self._verbose = quiet, verbose
        self._moving = console.is_terminal and not quiet
        self._running: dict[str, tuple[Action, str, float, float, str]] = {}
        self._counts: Counter[str] = Counter()
        self._total = 0
        self._live: Live | None = None

    def __enter__(self) -> LiveView:
        if self._moving:
            self._live = Live(
                console=self._console,
                get_renderable=self._render,
                refresh_per_second=8,
                transient=True,
            )
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    @property
    def counts(self) -> Mapping[str, int]:
        """How many actions ended in each status so far."""
        return self._counts

    def planned(self, total: int) -> None:
        """Note the size of the graph."""
        self._total = total

    def started(self, action: Action, variants: list[Variant]) -> None:
        """Show an action that runs now."""
        label = self._hide(label_of(action, variants))
        self._running[action.id] = (action, label, time.monotonic(), 0.0, "")
        if not self._moving:
            self._line(f"[dim]…[/] {escape(label)}")

    def progressed(self, action: Action, done: float, text: str) -> None:
        """Show how far a running action is."""
        if action.id in self._running:
            kept, label, begun, *_ = self._running[action.id]
            self._running[action.id] = (kept, label, begun, done, text)

    def finished(self, action: Action, finished: Finished) -> None:
        """Show the end of an action."""
        self._counts[finished.status] += 1
        running = self._running.pop(action.id, None)
        label = running[1] if running else action.stage
        mark, style = _MARKS[finished.status]
        if finished.status in ("ran", "failed"):
            self._line(f"[{style}]{mark}[/] {escape(label)} [dim]{finished.seconds:.1f} s[/]")
        elif self._verbose:
            self._line(f"[{style}]{mark}[/] {escape(label)} [dim]{finished.status}[/]")

    def waiting(self, action: Action, reason: str) -> None:
        """Say that another process is in the way."""
        self._line(f"[yellow]…[/] {action.stage} waits: {escape(reason)}")

    def _line(self, text: str) -> None:
        if not self._quiet:
            self._console.print(text, highlight=False)

    def _render(self) -> Group:
        table = Table.grid(padding=(0, 1))
        now = time.monotonic()
        for _, label, begun, done, text in self._running.values():
            bar = ProgressBar(total=1.0, completed=done, width=16, pulse=done <= 0)
            table.add_row(Text("  "), Text(label), bar, f"{now - begun:.0f} s", Text(text, "dim"))
        left = self._total - sum(self._counts.values()) - len(self._running)
        parts = [f"{count} {status}" for status, count in sorted(self._counts.items())]
        parts += [f"{len(self._running)} running", f"{max(left, 0)} left"]
        return Group(table, Text("  " + " · ".join(parts), "dim"))


def label_of(action: Action, variants: list[Variant]) -> str:
    """Return the action's role and for which variant, or for how many, it runs."""
    first = variants[0]
    roles = {step.role for step in first.steps if step.action == action.id}
    role = sorted(roles)[0] if roles else action.stage
    if len(variants) > 1:
        return f"{role} · {first.config.model.name} · for {len(variants)} variants"
    return f"{role} · {first.name}"
