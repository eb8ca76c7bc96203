from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import StageError
from tests.gpu.rows import GRACE_S, OutOfTimeError, Rows, read_rows


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Calls:
    """Steps that note that they were done."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def __call__(self, name: str, **row: Any) -> Any:
        def action() -> Mapping[str, Any]:
            self.names.append(name)
            return row

        return action


@pytest.fixture
def calls() -> Calls:
    return Calls()


def test_a_step_with_a_row_is_not_repeated_on_the_next_visit(tmp_path: Path, calls: Calls) -> None:
    for _ in range(2):
        rows = Rows(path=tmp_path / "rows.jsonl")
        rows.step("first", calls("first", found=1))
        rows.step("second", calls("second"))
    assert calls.names == ["first", "second"]
    assert read_rows(tmp_path / "rows.jsonl")["first"]["found"] == 1


def test_only_selects_and_again_repeats(tmp_path: Path, calls: Calls) -> None:
    path = tmp_path / "rows.jsonl"
    for again in (False, True, False):
        rows = Rows(path=path, only=["sweep", "beside"], again=again)
        for name in ("sweep digits", "again digits", "beside"):
            rows.step(name, calls(name))
    assert calls.names == ["sweep digits", "beside"] * 2


def test_failures_are_rows_and_the_visit_goes_on(tmp_path: Path, calls: Calls) -> None:
    def refuse() -> Mapping[str, Any]:
        raise StageError("it is wrong", where="here")

    def crash() -> Mapping[str, Any]:
        raise ZeroDivisionError("no")

    rows = Rows(path=tmp_path / "rows.jsonl")
    rows.step("refused", refuse)
    rows.step("crashed", crash)
    rows.step("unexpected", calls("unexpected", ok=False))
    rows.step("fine", calls("fine"))
    assert rows.summary() == 3
    assert rows.done["refused"]["error"] == "here: it is wrong"
    assert rows.done["crashed"]["error"] == "ZeroDivisionError: no"
    assert "traceback" in rows.done["crashed"]


def test_no_step_starts_after_the_budget(tmp_path: Path, calls: Calls) -> None:
    clock = Clock()
    rows = Rows(path=tmp_path / "rows.jsonl", budget_s=100, clock=clock)
    rows.step("early", calls("early"))
    clock.now = 100
    assert rows.left_s == GRACE_S
    rows.step("late", calls("late"))
    rows.step("later", calls("later"))
    assert calls.names == ["early"]
    assert set(rows.done) == {"early"}


def test_a_step_that_ran_out_of_time_is_for_the_next_visit(tmp_path: Path, calls: Calls) -> None:
    def too_long() -> Mapping[str, Any]:
        raise OutOfTimeError

    path = tmp_path / "rows.jsonl"
    rows = Rows(path=path)
    rows.step("long", too_long)
    rows.step("next", calls("next"))
    assert calls.names == []
    Rows(path=path).step("long", calls("long"))
    assert calls.names == ["long"]


def test_paths_of_the_machine_are_not_written_down(tmp_path: Path, calls: Calls) -> None:
    path = tmp_path / "rows.jsonl"
    rows = Rows(path=path, hidden={"/some/where": "<work>"})
    rows.step("one", calls("one", shown="below /some/where/else"))
    assert rows.done["one"]["shown"] == "below <work>/else"
    assert "/some/where" not in path.read_text()
