"""The live view: what runs, what is done, on a terminal and in a pipe."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from typing import Final

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from orchestrator.executor.outcome import Estimates, Finished, Status
from orchestrator.plan.graph import Action, Graph, Variant
from orchestrator.report.labels import label_of
from orchestrator.report.panel import fitted, panel
from orchestrator.report.progress import Progress

_MARKS: Final[Mapping[Status, tuple[str, str]]] = {
    "ran": ("✓", "green"),
    "cached": ("=", "cyan"),
    "shared": ("=", "cyan"),
    "failed": ("✗", "bold red"),
    "skipped": ("–", "dim"),
}
_REDRAWN_PER_S: Final = 4
_TOTALS_EVERY_S: Final = 10.0
_TICKS_WITHOUT_NEWS: Final = 6


class LiveView:
    """Implements :class:`orchestrator.executor.outcome.Listener` on a rich console.

    On a terminal, running actions are lines that move; finished ones scroll up. In a pipe, every
    event is a plain line, and while nothing ends the totals tell that something goes on. With
    *verbose*, what did not run is a line too. *quiet* shows nothing. *hide* takes secrets out of
    what is shown.
    """

    def __init__(
        self,
        console: Console,
        *,
        quiet: bool = False,
        verbose: bool = False,
        hide: Callable[[str], str] = str,
    ) -> None:
        self._console, self._hide = console, hide
        self._quiet, self._verbose = quiet, verbose
        # Colours may be wanted in a file too (FORCE_COLOR); what moves may not.
        self._moving = console.is_interactive and console.file.isatty() and not quiet
        self._progress: Progress | None = None
        self._live: Live | None = None
        self._totals: _Repeated | None = None

    def __enter__(self) -> LiveView:
        if self._moving:
            self._live = Live(
                console=self._console,
                get_renderable=self._render,
                refresh_per_second=_REDRAWN_PER_S,
                transient=True,
            )
            self._live.start()
        elif not self._quiet:
            self._totals = _Repeated(self._print_totals)
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            with contextlib.suppress(OSError):  # a terminal that was closed must not hide the end
                self._live.stop()
        if self._totals is not None:
            self._totals.stop()

    def planned(self, graph: Graph, estimates: Estimates, workers: int) -> None:
        """Begin to count."""
        self._progress = Progress(graph, estimates, workers)

    def started(self, action: Action, variants: list[Variant]) -> None:
        """Show an action that runs now."""
        label = self._hide(label_of(action, variants))
        self._counted.started(action, label)
        if not self._moving:
            self._line("…", "dim", label)

    def progressed(self, action: Action, done: float, text: str) -> None:
        """Show how far a running action is."""
        self._counted.progressed(action, done, self._hide(text))

    def finished(self, action: Action, variants: list[Variant], finished: Finished) -> None:
        """Show the end of an action."""
        self._counted.finished(action, finished.status)
        ran = finished.status in ("ran", "failed")
        if ran or self._verbose:
            mark, style = _MARKS[finished.status]
            end = f"{finished.seconds:.1f} s" if ran else finished.status
            self._line(mark, style, self._hide(label_of(action, variants)), end)

    def waiting(self, action: Action, reason: str) -> None:
        """Say that another process is in the way."""
        self._line("…", "yellow", f"{action.stage} waits: {reason}")

    def _line(self, mark: str, style: str, label: str, end: str = "") -> None:
        """Print one line; on a terminal a label that does not fit is cut, the end is not."""
        if self._quiet:
            return
        if self._moving:
            label = fitted(label, self._console.width - len(mark) - len(end) - 2)
        line = Text.assemble((mark, style), f" {label}", (f" {end}" if end else "", "dim"))
        self._console.print(line, soft_wrap=not self._moving)
        if self._totals is not None:
            self._totals.news = True

    @property
    def _counted(self) -> Progress:
        assert self._progress is not None, "planned() comes first"
        return self._progress

    def _print_totals(self) -> None:
        if self._progress is not None and self._progress.running:
            totals = f"  {self._progress.totals(time.monotonic())}"
            with contextlib.suppress(OSError):  # nobody reads: the next event says so to the run
                self._console.print(totals, soft_wrap=True)

    def _render(self) -> Group:
        if self._progress is None:
            return Group()
        width, height = self._console.size
        return panel(self._progress, time.monotonic(), width=width, height=height)


class _Repeated:
    """Calls *say* in a thread: every 10 s after news, once a minute without."""

    def __init__(self, say: Callable[[], None]) -> None:
        self.news = False
        self._say = say
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End it."""
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        ticks = 0
        while not self._over.wait(_TOTALS_EVERY_S):
            ticks += 1
            if self.news or ticks >= _TICKS_WITHOUT_NEWS:
                self.news, ticks = False, 0
                self._say()
