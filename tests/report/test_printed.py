"""The table on a console: fitted to a terminal, whole in a pipe, the telling rows first."""

from __future__ import annotations

import io

import pytest
from rich.cells import cell_len
from rich.console import Console

from orchestrator.report.printed import print_table
from orchestrator.report.summary import Summary
from tests.report.terminal import Terminal

NAME = "exporter.opset=18,model=resnet50,precision=fp16,seed={}"
EVERYTHING = "outputs/sweeps/now/summary.md"


def summary(number: int, **more: object) -> Summary:
    given = {
        "name": NAME.format(number),
        "passed": True,
        "artifact_bytes": 100_000,
        "max_error": 0.012,
        "snr_db": 68.0,
        "metric_name": "vision:top1",
        "metric": 0.9925,
        "p50_ms": 100.0 - number / 100,
        "storage": "fp16",
        "compute": "fp32",
    }
    return Summary(**{**given, **more})  # type: ignore[arg-type]


def printed(file: io.StringIO, width: int, summaries: list[Summary]) -> list[str]:
    terminal = file.isatty()
    console = Console(file=file, width=width, force_terminal=terminal, color_system=None)
    print_table(console, summaries, EVERYTHING)
    return file.getvalue().splitlines()


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    summaries = [summary(number, beside={"torch": 1.0}) for number in range(3)]
    *lines, notice = printed(Terminal(), width, summaries)

    assert max(map(cell_len, lines)) <= width
    for text in ("error", "top1", "p50", "status"):
        assert text in lines[0].split()
    assert ("too narrow for: torch p50" in notice) == (width < 120)
    assert "".join(line.partition(" ")[0] for line in lines).count("seed=1") == 1


def test_columns_without_anything_in_them_go_first() -> None:
    summaries = [summary(number, metric=None, metric_name=None) for number in range(3)]
    *_, notice = printed(Terminal(), 80, summaries)

    assert notice == f"too narrow for: metric, storage (all in {EVERYTHING})"


def test_a_name_is_folded_behind_commas() -> None:
    lines = printed(Terminal(), 60, [summary(1)])

    assert [line.split()[0] for line in lines[1:4]] == [
        "exporter.opset=18,",
        "model=resnet50,",
        "precision=fp16,seed=1",
    ]


def test_a_terminal_shows_the_failed_then_the_fastest() -> None:
    summaries = [
        summary(number, passed=number not in (7, 500), interrupted=number == 7)
        for number in range(1000)
    ]
    _, *rows, notice = printed(Terminal(), 200, summaries)

    assert len(rows) == 40
    assert rows[0].startswith(NAME.format(500))
    assert rows[0].endswith("FAILED")
    assert rows[1].startswith(NAME.format(999))
    assert not any("interrupted" in row for row in rows)
    assert notice == (
        f"… and 960 more; failed ones come first, then the fastest (all in {EVERYTHING})"
    )


def test_a_pipe_gets_every_row_and_column_in_order() -> None:
    summaries = [summary(number, beside={"torch": 1.0}) for number in range(1000)]
    title, *rows = printed(io.StringIO(), 20, summaries)

    assert "torch p50" in title
    assert [row.split()[0] for row in rows] == [NAME.format(number) for number in range(1000)]
    assert len({cell_len(row) for row in rows}) == 1


def test_colours_do_not_move_columns() -> None:
    file = Terminal()
    console = Console(file=file, width=160, force_terminal=True, color_system="standard")
    print_table(console, [summary(1), summary(2, passed=False)], EVERYTHING)
    title, first, second = file.getvalue().splitlines()

    assert title.startswith("\x1b[1mvariant")
    assert first.endswith("\x1b[32mpassed\x1b[0m")
    assert second.endswith("\x1b[1;31mFAILED\x1b[0m")


def test_wide_characters_are_counted_as_they_are_shown() -> None:
    lines = printed(Terminal(), 120, [summary(1, name="模型=一"), summary(2, name="x")])

    assert len({cell_len(line) for line in lines[1:]}) == 1
