"""Writing small files so that they are whole or absent, whatever happens."""

from __future__ import annotations

import os
import uuid
from pathlib import Path


def fsync_directory(path: Path) -> None:
    """Make the names in a directory durable.

    Raises:
        OSError: the file system refused.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_durably(path: Path, data: bytes, *, replace: bool = True) -> bool:
    """Write *data* to *path*: temporary file, fsync, link, fsync of the directory.

    Returns:
        False when *replace* is false and *path* was there already (it is left as it is).

    Raises:
        OSError: the file system refused; *path* is then as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(path)
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            temporary.replace(path)
        else:
            try:
                path.hardlink_to(temporary)
            except FileExistsError:
                return False
    finally:
        temporary.unlink(missing_ok=True)
    fsync_directory(path.parent)
    return True


def write_atomically(path: Path, data: bytes) -> None:
    """Write *data* to *path*: who reads it sees the old file or the whole new one.

    For what can be made again: after a power cut the file may be gone, or empty. It costs a
    fraction of :func:`write_durably`.

    Raises:
        OSError: the file system refused; *path* is then as it was.
    """
    temporary = _beside(path)
    try:
        with temporary.open("xb") as file:
            file.write(data)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}")
