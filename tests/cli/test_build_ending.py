"""What a build says at its end: each failure once, warnings unwrapped, how to go on."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from orchestrator.cli.ending import print_ending
from orchestrator.errors import OrchestrateError, StageError
from orchestrator.report.experiment import VariantResult
from orchestrator.report.summary import Summary
from orchestrator.session import Options, Session


def result(name: str, *failures: OrchestrateError, notes: tuple[str, ...] = ()) -> VariantResult:
    return VariantResult(
        name=name,
        passed=not failures,
        interrupted=False,
        directory=Path("outputs") / name,
        summary=Summary(name=name, passed=not failures),
        failures=failures,
        notes=notes,
        manifest={},
    )


def ended(*results: VariantResult) -> Session:
    session = Session(Console(), Options())
    session.results, session.directory = list(results), Path("outputs")
    session.counts = {"cached": 3, "ran": 2, "failed": 1}
    return session


def printed(session: Session) -> str:
    file = io.StringIO()
    print_ending(Console(file=file, width=40), session)
    return file.getvalue()


def test_a_failure_that_many_share_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    shared = [StageError("no such weights", where="export", hint="train some") for _ in range(5)]
    many = [result(f"model=m{number}", error) for number, error in enumerate(shared)]
    own = result("model=x", StageError("no kernel"), StageError("no memory"))
    printed(ended(*many, own, result("model=y")))

    assert capsys.readouterr().err.splitlines() == [
        "FAILED model=m0, model=m1, model=m2 and 2 more: export: no such weights",
        "  → train some",
        "  logs: outputs/model=m0/logs",
        "FAILED model=x: no kernel",
        "FAILED model=x: no memory",
        "  logs: outputs/model=x/logs",
    ]


def test_warnings_notes_and_counts_are_lines_of_their_own() -> None:
    note = "a note that is longer than a narrow terminal is wide"
    session = ended(result("a[b]", notes=(note,)), result("c", notes=(note,)))
    session.warnings = ["a warning that is longer than a narrow terminal [is] wide"]
    lines = printed(session).splitlines()

    assert lines[0] == f"warning: {session.warnings[0]}"
    assert "2 ran, 3 cached, 1 failed · outputs" in lines
    assert lines[-1] == f"note a[b], c: {note}"


def test_an_interrupted_run_says_how_to_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    session = ended(result("a"))
    session.interrupted = True
    printed(session)

    assert capsys.readouterr().err == (
        "interrupted: 2 finished actions are kept; the same command goes on from there\n"
    )
