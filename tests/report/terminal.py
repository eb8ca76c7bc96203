"""A file that says that it is a terminal, and keeps what is written."""

from __future__ import annotations

import io


class Terminal(io.StringIO):
    """A terminal to the console that writes to it."""

    def isatty(self) -> bool:
        """It is one."""
        return True
