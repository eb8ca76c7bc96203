"""Shortens source locations so that they mean the same on every machine."""

from __future__ import annotations

import re
import sys

_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+)')


def shorten(file: str) -> str:
    """Return *file* relative to the longest entry of ``sys.path`` that holds it, else its name."""
    roots = [root.rstrip("/") + "/" for root in sys.path if root and file.startswith(root)]
    roots = [root for root in roots if file.startswith(root)]
    return file[len(max(roots, key=len)) :] if roots else file.rpartition("/")[2]


def innermost(trace: str) -> str:
    """Return ``file.py:line`` of the innermost frame of a Python traceback text outside torch.

    The innermost frame of all when every frame is torch's; empty when there is none.
    """
    frames = [(shorten(m["file"]), m["line"]) for m in _FRAME.finditer(trace)]
    own = [frame for frame in frames if not frame[0].startswith("torch/")]
    return ":".join((own or frames)[-1]) if frames else ""
