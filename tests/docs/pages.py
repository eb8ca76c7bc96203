"""What a page of the documentation says to do: files to write, commands to run, output to expect.

In a page, a fenced block is

* ``yaml`` or ``python`` whose first line (behind Hydra's ``@package``) is a comment with a file
  name: that file;
* ``python`` without one: a script that is run;
* ``bash``: commands that are run. ``# exit 1`` at a line's end is the expected exit code; lines
  that start with ``make``, ``pip`` or ``git`` are left to CI. ``# slow`` on a line of its own makes
  the whole block one for the slow tests;
* ``text`` right behind a ``bash`` block: lines that the block's commands print, white space and
  wrapping aside. ``…`` stands for anything.

Blocks of other kinds are for the reader only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE_NAME = re.compile(r"(?:# @package .*\n)?# ([\w./-]+\.(?:yaml|py))\n")
_EXIT = re.compile(r"\s+# exit (\d+)\s*$")
_LEFT_TO_CI = ("make", "pip", "git")


@dataclass(frozen=True, kw_only=True)
class File:
    """A file that the page shows."""

    name: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Command:
    """One line of a ``bash`` block, or a script."""

    line: str
    code: int = 0
    script: str = ""


@dataclass(kw_only=True)
class Commands:
    """A ``bash`` block or a script, and the lines that it must print."""

    commands: list[Command]
    slow: bool
    expected: list[str]


def read_page(path: Path) -> list[File | Commands]:
    """Return what the page says to do, in order."""
    found: list[File | Commands] = []
    last: Commands | None = None
    for kind, text in _FENCE.findall(path.read_text(encoding="utf-8")):
        named = _FILE_NAME.match(text)
        if kind in ("yaml", "python") and named:
            found.append(File(name=named[1], text=text))
            last = None
        elif kind == "python":
            script = Command(line=f"python block {text.splitlines()[0]!r}", script=text)
            last = Commands(commands=[script], slow="# slow\n" in text, expected=[])
            found.append(last)
        elif kind == "bash":
            last = Commands(commands=list(_commands(text)), slow="# slow\n" in text, expected=[])
            found.append(last)
        elif kind == "text" and last is not None:
            last.expected += [line for line in text.splitlines() if line.strip(" …")]
        else:
            last = None
    return found


def prints(expected: str, output: str) -> bool:
    """Whether *output* has the line *expected*; ``…`` stands for anything within a line."""
    parts = [r"\s+".join(map(re.escape, part.split())) for part in expected.split("…")]
    return re.search(r"[^\n]*?".join(parts), output) is not None


def _commands(text: str) -> Iterator[Command]:
    for line in text.splitlines():
        if not line.strip() or line.startswith("#") or line.split()[0] in _LEFT_TO_CI:
            continue
        ending = _EXIT.search(line)
        yield Command(line=line, code=int(ending[1]) if ending else 0)
