"""The console that everything is printed on."""

from __future__ import annotations

import errno

from rich.console import Console

_PIPE_WIDTH = 160


def console(*, stderr: bool = False) -> Console:
    """Return a console; a pipe or a file is wide, so that tables are not cut for a reader there."""
    made = _Console(stderr=stderr, highlight=False)
    if not made.file.isatty():
        made.width = _PIPE_WIDTH
    return made


class _Console(Console):
    """A console whose reader may go (``| head``); rich would end the process with code 1."""

    def on_broken_pipe(self) -> None:
        """Let the command end as other tools do."""
        raise BrokenPipeError(errno.EPIPE, "the reader of the output has gone")
