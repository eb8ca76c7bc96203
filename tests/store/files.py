"""Small stores and trees for the tests of the store."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from orchestrator.store import digests
from orchestrator.store.results import Result
from orchestrator.store.store import Store

Content = dict[str, Any]  # a name to bytes, or to the content of a sub-directory


def write(directory: Path, content: Content) -> Path:
    """Make *directory* with *content*; return it."""
    directory.mkdir(parents=True)
    for name, value in content.items():
        if isinstance(value, dict):
            write(directory / name, value)
        else:
            (directory / name).write_bytes(value)
    return directory


def read(directory: Path) -> Content:
    """Return the content of a directory, links to directories followed."""
    return {
        path.name: read(path) if path.is_dir() else path.read_bytes()
        for path in directory.iterdir()
    }


def add(store: Store, content: Content) -> str:
    """Store a tree with *content*; return its digest."""
    number = os.urandom(8).hex()
    return store.trees.add(write(store.root / "tmp" / f"source-{number}", content))


def result(name: str, outputs: dict[str, str] | None = None, **more: Any) -> Result:
    """Return a result whose key is the digest of *name*."""
    fields: dict[str, Any] = {
        "key": digests.of_json("action", name),
        "stage": "export",
        "material": {"name": name},
        "outputs": outputs or {},
        "values": {},
    }
    return Result(**fields | more)


def put(store: Store, name: str, content: Content, **more: Any) -> Result:
    """Store a tree and a result that points at it."""
    made = result(name, {"onnx": add(store, content)}, **more)
    return store.results.put(made, replace=False)


def flip(path: Path, position: int = 0) -> None:
    """Change one bit of a read-only file, as a failing disk would: size and times stay."""
    stat = path.stat()
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(position)
        (byte,) = file.read(1)
        file.seek(position)
        file.write(bytes([byte ^ 1]))
    path.chmod(0o444)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
