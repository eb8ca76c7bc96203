"""The console that everything is printed on."""

from __future__ import annotations

from rich.console import Console

_PIPE_WIDTH = 160


def console(*, stderr: bool = False) -> Console:
    """Return a console; a pipe or a file is wide, so that tables are not cut for a reader there."""
    made = Console(stderr=stderr, highlight=False)
    if not made.file.isatty():
        made.width = _PIPE_WIDTH
    return made
