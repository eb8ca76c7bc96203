"""The table at the end of a run on a console: fitted to a terminal, whole in a pipe."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

from rich.cells import cell_len, chop_cells
from rich.console import Console
from rich.text import Text

from orchestrator.report.summary import Summary
from orchestrator.report.table import headings, rows

_LEFT: Final = ("variant", "storage", "compute", "status")
#: What a narrow terminal does without, the first first; before them go columns in which nothing is
#: and what was measured beside.
_SPARED: Final = ("storage", "SNR", "size", "compute")
_STYLES: Final = {"passed": "green", "FAILED": "bold red", "interrupted": "yellow"}
_GAP: Final = "  "
_NAME_WIDTH: Final = 24  # a longer name is folded, before a column is left out
_MOST_ROWS: Final = 40


def print_table(console: Console, summaries: Sequence[Summary], everything: str = "") -> None:
    """Print a row for each variant; on a terminal the most telling ones, as far as they fit.

    Of more variants than a terminal shows, those that failed come first, then the fastest.

    Args:
        console: A terminal; or a pipe, which gets all rows and columns.
        summaries: One for each variant.
        everything: The file that has all rows and columns.
    """
    terminal = console.file.isatty()
    shown = list(summaries)
    if terminal and len(shown) > _MOST_ROWS:
        shown = sorted(shown, key=_rank)[:_MOST_ROWS]
    titles = headings(shown)
    cells = [list(row) for row in zip(titles, *rows(shown), strict=True)]  # one list a column
    left_out: list[str] = []
    if terminal:
        cells, left_out = _fitted(cells, console.width)
    lines = _lines(cells, console.width if terminal else 0)
    if console.color_system is None:  # a thousand rows take rich a while
        console.file.write("".join(f"{line}{status}\n" for line, status in lines))
    else:
        console.print(Text("\n").join(_painted(*line) for line in lines), soft_wrap=True)
    for text in _omissions(len(summaries) - len(shown), left_out, everything):
        console.print(Text(text, "dim"), soft_wrap=True)


def _rank(summary: Summary) -> tuple[int, float]:
    if summary.passed:
        return 1, summary.p50_ms if summary.p50_ms is not None else float("inf")
    return 2 if summary.interrupted else 0, 0.0


def _fitted(columns: list[list[str]], width: int) -> tuple[list[list[str]], list[str]]:
    """Return the columns that fit into *width*, and the headings of those that do not."""
    empty = [column[0] for column in columns if set(column[1:]) == {"–"}]
    beside = [column[0] for column in columns if column[0].endswith(" p50")]
    left_out: list[str] = []
    for name in dict.fromkeys((*empty, *beside, *_SPARED)):
        if _needed(columns) <= width:
            break
        columns = [column for column in columns if column[0] != name]
        left_out.append(name)
    return columns, left_out


def _needed(columns: list[list[str]]) -> int:
    names, *others = map(_width, columns)
    return min(names, _NAME_WIDTH) + sum(len(_GAP) + other for other in others)


def _lines(columns: list[list[str]], limit: int) -> Iterator[tuple[str, str]]:
    """Yield each line up to the status, and the status.

    With a *limit*, names that are too long go on in lines of their own.
    """
    names, *others = widths = [_width(column) for column in columns]
    if limit:
        room = limit - sum(len(_GAP) + other for other in others)
        widths[0] = names = min(names, max(room, 1))
    for name, *cells, status in zip(*columns, strict=True):
        first, *more = _folded(name, names)
        texts = [
            _padded(text, width, left=column[0] in _LEFT)
            for text, width, column in zip((first, *cells), widths, columns, strict=False)
        ]
        yield _GAP.join([*texts, ""]), status
        yield from ((text, "") for text in more)


def _painted(line: str, status: str) -> Text:
    title = bool(status) and status not in _STYLES
    return Text(line, "bold" if title else "").append(status, _STYLES.get(status, ""))


def _folded(name: str, width: int) -> list[str]:
    """Return *name* in lines of *width*, broken behind commas where that is possible."""
    if cell_len(name) <= width:
        return [name]
    lines = [""]
    for part in re.findall(r"[^,]*,|[^,]+", name):
        if lines[-1] and cell_len(lines[-1] + part) > width:
            lines.append("")
        *whole, last = chop_cells(lines[-1] + part, width)
        lines[-1:] = [*whole, last]
    return lines


def _width(column: list[str]) -> int:
    return max(map(cell_len, column))


def _padded(text: str, width: int, *, left: bool) -> str:
    space = " " * (width - cell_len(text))
    return text + space if left else space + text


def _omissions(hidden: int, left_out: list[str], everything: str) -> Iterator[str]:
    where = f" (all in {everything})" if everything else ""
    if hidden:
        yield f"… and {hidden} more; failed ones come first, then the fastest{where}"
    if left_out:
        yield f"too narrow for: {', '.join(left_out)}{where if not hidden else ''}"
