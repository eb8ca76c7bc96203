"""Digests: full-length SHA-256 of bytes, of canonical JSON and of Python syntax trees."""

from __future__ import annotations

import ast
import hashlib
import json
from pathlib import Path
from typing import Any

CHUNK_BYTES = 1 << 20


def canonical(value: Any) -> str:
    """Return *value* as canonical JSON: sorted keys, no spaces, ASCII only, no NaN.

    Raises:
        TypeError, ValueError: *value* is no JSON value (of our own making, so a programming error).
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def of_json(kind: str, value: Any) -> str:
    """Return the digest of *value*, tagged with *kind* so that two kinds never share a digest."""
    return of_bytes(f"{kind}\n{canonical(value)}".encode())


def of_bytes(data: bytes) -> str:
    """Return the SHA-256 of *data* in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def of_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, read in chunks of 1 MiB.

    Raises:
        OSError: the file cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def of_source(path: Path) -> str:
    """Return the digest of a Python file's syntax tree, without positions and comments.

    A comment, a blank line or a moved function body leaves it as it is. A file that is no valid
    Python (or no text) is digested by its bytes.
    """
    data = path.read_bytes()
    try:
        tree = ast.parse(data)
    except (SyntaxError, ValueError):
        return of_bytes(data)
    return of_bytes(ast.dump(tree, include_attributes=False).encode())
