"""What moves on a terminal: a line for each running action, and the totals."""

from __future__ import annotations

import re
from typing import Final

from rich.cells import cell_len, set_cell_size
from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from orchestrator.report.progress import Progress, Running
from orchestrator.report.remaining import seconds_text

_MOST_LINES: Final = 20  # more are a wall of text, even where they fit
_BESIDE: Final = 3  # the totals, the line of those left out, the cursor's line
_NARROW: Final = 80  # columns below which there is no bar
_BAR: Final = 16
_TIME: Final = 7
_THOUGHT: Final = 10
_KEY: Final = re.compile(r"[^\s,=]+=(?=[^\s,])")


def panel(progress: Progress, now: float, *, width: int, height: int) -> Group:
    """Return at most *height* - 1 lines of *width* columns that show *progress* at *now*.

    The columns keep their places, whatever runs: times and bars come first, at fixed widths.
    """
    running = progress.running
    most = max(min(_MOST_LINES, height - _BESIDE), 1)
    shown = running if len(running) <= most else running[:most]
    lines: list[RenderableType] = [_lines(shown, now, width)] if shown else []
    if len(running) > len(shown) and height > _BESIDE:
        lines.append(_line(f"{'… and ':>{_TIME + 4}}{len(running) - len(shown)} more"))
    return Group(*lines, _line(f"  {progress.totals(now)}"))


def _lines(running: list[Running], now: float, width: int) -> Table:
    bars = width >= _NARROW
    room = width - _TIME - _THOUGHT - 2 - (_BAR + 1 if bars else 0)
    table = Table.grid(padding=(0, 1), expand=True)
    table.add_column(width=_TIME, justify="right", no_wrap=True)
    table.add_column(width=_THOUGHT, style="dim", no_wrap=True)
    if bars:
        table.add_column(width=_BAR)
    table.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    for one in running:
        share = one.share(now)
        bar = ProgressBar(total=1.0, completed=share or 0.0, width=_BAR, pulse=share is None)
        thought = f"of ~{seconds_text(one.thought)}" if one.thought is not None else ""
        text = Text.assemble(fitted(one.label, room), (f"  {one.text}" if one.text else "", "dim"))
        cells: list[RenderableType] = [Text(seconds_text(now - one.begun)), Text(thought)]
        table.add_row(*cells, *([bar] if bars else []), text)
    return table


def fitted(label: str, width: int) -> str:
    """Return *label* in at most *width* columns: ``a.b=1,c=2`` as ``1,2``, and cut if need be."""
    if cell_len(label) <= width:
        return label
    values = _KEY.sub("", label)
    if cell_len(values) <= width:
        return values
    return f"{set_cell_size(values, max(width - 1, 0)).rstrip()}…"


def _line(text: str) -> Text:
    return Text(text, "dim", no_wrap=True, overflow="ellipsis")
