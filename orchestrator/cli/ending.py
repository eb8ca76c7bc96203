"""What a run says when it has ended: warnings, the table, counts, failures."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Final, TypeVar

from rich.console import Console
from rich.markup import escape

from orchestrator.locations import shown
from orchestrator.report.events import emit, error_fields
from orchestrator.report.printed import print_table
from orchestrator.session import Session

_Said = TypeVar("_Said", str, tuple[str, ...])

_ORDER: Final = ("ran", "cached", "shared", "failed", "skipped")
_NAMED: Final = 3  # of the variants that share a note or a failure
_GOES_ON: Final = "the same command goes on from there"


def print_ending(console: Console, session: Session) -> None:
    """Print it for people; failures go to standard error."""
    for warning in session.warnings:
        console.print(f"[yellow]warning:[/] {escape(warning)}", soft_wrap=True)
    directory = shown(session.directory) if session.directory is not None else ""
    if session.results:
        console.print()
        summaries = [result.summary for result in session.results]
        print_table(console, summaries, f"{directory}/summary.md")
    counts = [f"{session.counts[name]} {name}" for name in _ORDER if session.counts.get(name)]
    console.print(f"\n{', '.join(counts)} · {directory}", soft_wrap=True, markup=False)
    notes = ((note, result.name) for result in session.results for note in result.notes)
    for note, names in _together(notes).items():
        console.print(f"[yellow]note[/] {escape(_few(names))}: {escape(note)}", soft_wrap=True)
    _print_errors(session)


def _print_errors(session: Session) -> None:
    if session.interrupted:
        print(f"interrupted: {_kept(session)}; {_GOES_ON}", file=sys.stderr)
    failed = [result for result in session.results if result.failures]
    logs = {result.name: f"{shown(result.directory)}/logs" for result in failed}
    failures = ((tuple(map(str, result.failures)), result.name) for result in failed)
    for texts, names in _together(failures).items():
        for text in texts:
            print(f"FAILED {_few(names)}: {text}", file=sys.stderr)
        print(f"  logs: {logs[names[0]]}", file=sys.stderr)


def tell_ending(session: Session) -> None:
    """Write it as events: ``warning``, ``failed``, ``interrupted``."""
    for warning in session.warnings:
        emit("warning", message=warning)
    for result in session.results:
        if result.failures:
            emit(
                "failed",
                variant=result.name,
                directory=str(result.directory),
                failures=[error_fields(failure) for failure in result.failures],
            )
    if session.interrupted:
        emit("interrupted", message=_kept(session), hint=_GOES_ON)


def _kept(session: Session) -> str:
    return f"{session.counts.get('ran', 0)} finished actions are kept"


def _together(said: Iterable[tuple[_Said, str]]) -> dict[_Said, list[str]]:
    """Return what was said with the names of the variants of which it was."""
    found: dict[_Said, list[str]] = {}
    for one, name in said:
        found.setdefault(one, []).append(name)
    return found


def _few(names: Sequence[str]) -> str:
    few = ", ".join(names[:_NAMED])
    return few if len(names) <= _NAMED else f"{few} and {len(names) - _NAMED} more"
