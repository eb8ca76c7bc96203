"""Keeps libraries off the terminal: what they print, warn and log goes to the action's log."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

from orchestrator.exporters.sources import shorten


@contextlib.contextmanager
def captured(scratch: Path, log: Callable[[str], None]) -> Iterator[Callable[[], str]]:
    """Send stdout, stderr (file descriptors too, so C++ as well) and warnings to *log*.

    Yields a function that gives the text printed so far. Warnings are logged one a line, after the
    printed text, duplicates once.
    """
    path = scratch / "printed.txt"
    warned: list[warnings.WarningMessage] = []
    try:
        with (
            path.open("w", buffering=1, errors="replace") as file,
            warnings.catch_warnings(record=True) as warned,
            _descriptors(file.fileno()),
            contextlib.redirect_stdout(file),
            contextlib.redirect_stderr(file),
        ):
            warnings.simplefilter("always")

            def printed() -> str:
                file.flush()
                return path.read_text(errors="replace")

            yield printed
    finally:
        lines = path.read_text(errors="replace").splitlines()
        path.unlink()
        lines += [
            f"{w.category.__name__}: {w.message} ({shorten(w.filename)}:{w.lineno})" for w in warned
        ]
        for line in dict.fromkeys(line for line in lines if line.strip()):
            log(line)


@contextlib.contextmanager
def _descriptors(target: int) -> Iterator[None]:
    sys.stdout.flush()
    sys.stderr.flush()
    saved = [os.dup(1), os.dup(2)]
    try:
        os.dup2(target, 1)
        os.dup2(target, 2)
        yield
    finally:
        for number, copy in enumerate(saved, start=1):
            os.dup2(copy, number)
            os.close(copy)
