"""The content store: immutable, read-only directory trees named by the digest of their listing.

``trees/ab/<digest>/`` holds the files, ``trees/ab/<digest>.list`` the listing whose SHA-256 is the
name. A sub-directory is a tree of its own, linked in relatively: onnx and onnxruntime accept
weights in a linked *directory*, while they refuse linked files.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import stat
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.errors import StoreError
from orchestrator.store import digests
from orchestrator.store.files import fsync_directory, write_durably
from orchestrator.store.index import Index

_TAG = "tree"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One name in a tree: a file with its digest and size in bytes, or another tree."""

    name: str
    sha256: str = ""
    size: int = 0
    tree: str = ""


class Trees:
    """The trees of one store."""

    def __init__(self, root: Path, scratch: Path, index: Index) -> None:
        self._root = root
        self._scratch = scratch
        self._index = index

    def path(self, digest: str) -> Path:
        """Return the directory of a tree, whether it exists or not."""
        return self._root / digest[:2] / digest

    def add(self, source: Path) -> str:
        """Move the directory *source* (on the store's file system) into the store.

        Returns:
            The digest of the tree. *source* is gone afterwards.

        Raises:
            StoreError: *source* holds a link or a special file.
            OSError: the file system refused (full, read-only); nothing is visible then.
        """
        entries = [self._take(path) for path in sorted(source.iterdir())]
        listing = digests.canonical([_as_json(entry) for entry in entries])
        digest = digests.of_bytes(f"{_TAG}\n{listing}".encode())
        if self.check(digest) is None:
            shutil.rmtree(source)
            return digest
        target = self.path(digest)
        target.parent.mkdir(parents=True, exist_ok=True)
        for entry in entries:
            if entry.tree:
                (source / entry.name).symlink_to(f"../../{entry.tree[:2]}/{entry.tree}")
        fsync_directory(source)
        write_durably(self._listing(digest), listing.encode())
        while not _renamed(source, target):
            if self.check(digest) is None:  # another process stored the same tree meanwhile
                shutil.rmtree(source)
                return digest
            self._retire(target)
        target.chmod(0o555)
        fsync_directory(target.parent)
        return digest

    def entries(self, digest: str) -> list[Entry] | None:
        """Return the listing of a tree, or None when it is missing or not what its name says."""
        try:
            listing = self._listing(digest).read_text()
        except (OSError, UnicodeDecodeError):
            return None
        if digests.of_bytes(f"{_TAG}\n{listing}".encode()) != digest:
            return None
        return [Entry(**entry) for entry in json.loads(listing)]

    def check(self, digest: str, *, thorough: bool = False) -> str | None:
        """Return None when the tree is whole, otherwise what is wrong with it.

        A file is compared by its remembered digest, so an unchanged file costs a ``stat``; with
        *thorough* every byte is read.
        """
        entries = self.entries(digest)
        if entries is None:
            return "is not in the store"
        root = self.path(digest)
        if not root.is_dir():
            return "is not in the store"
        for entry in entries:
            path = root / entry.name
            if entry.tree:
                problem = (
                    self.check(entry.tree, thorough=thorough) if path.is_dir() else "is missing"
                )
                if problem is not None:
                    return f"{entry.name}: {problem}"
                continue
            try:
                size = path.stat().st_size
                if size != entry.size:
                    return f"{entry.name} has {size} bytes instead of {entry.size}"
                found = digests.of_file(path) if thorough else self._index.file(path)
            except OSError as exc:
                return f"{entry.name} cannot be read ({exc.strerror})"
            if found != entry.sha256:
                return f"{entry.name} has other contents than when it was stored"
        extra = {path.name for path in root.iterdir()} - {entry.name for entry in entries}
        return f"{min(extra)} does not belong to it" if extra and thorough else None

    def size(self, digest: str) -> int:
        """Return the bytes of a tree, sub-trees included."""
        entries = self.entries(digest) or []
        return sum(self.size(entry.tree) if entry.tree else entry.size for entry in entries)

    def closure(self, digest: str) -> Iterator[str]:
        """Yield *digest* and the trees it links to."""
        yield digest
        for entry in self.entries(digest) or []:
            if entry.tree:
                yield from self.closure(entry.tree)

    def all(self) -> Iterator[str]:
        """Yield every tree whose directory is in the store."""
        for path in sorted(self._root.glob("??/*")):
            if path.is_dir() and not path.is_symlink():
                yield path.name

    def remove(self, digest: str) -> int:
        """Remove a tree (not the trees it links to); return the bytes of its own files."""
        own = sum(entry.size for entry in self.entries(digest) or [])
        self._retire(self.path(digest))
        self._listing(digest).unlink(missing_ok=True)
        return own

    def _listing(self, digest: str) -> Path:
        return self._root / digest[:2] / f"{digest}.list"

    def _retire(self, target: Path) -> None:
        """Take a directory out of the store in one step, then delete it."""
        if not target.is_dir():
            return
        aside = self._scratch / f"retired-{uuid.uuid4().hex}"
        with contextlib.suppress(FileNotFoundError):
            target.chmod(0o755)
            target.rename(aside)
            shutil.rmtree(aside)

    def _take(self, path: Path) -> Entry:
        mode = path.lstat().st_mode
        if stat.S_ISDIR(mode):
            return Entry(name=path.name, tree=self._take_directory(path))
        if not stat.S_ISREG(mode):
            raise StoreError(f"{path.name} is neither a file nor a directory", where=str(path))
        path.chmod(0o444)
        with path.open("rb") as file:
            os.fsync(file.fileno())
            size = os.fstat(file.fileno()).st_size
        return Entry(name=path.name, sha256=digests.of_file(path), size=size)

    def _take_directory(self, path: Path) -> str:
        # Added through a copy of the name, so that `path` can become a link afterwards.
        aside = self._scratch / f"tree-{uuid.uuid4().hex}"
        path.rename(aside)
        return self.add(aside)


def _renamed(source: Path, target: Path) -> bool:
    """Rename *source* to *target*; return False when there is something that is not empty."""
    try:
        source.rename(target)
    except OSError as exc:
        if exc.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        return False
    return True


def _as_json(entry: Entry) -> dict[str, Any]:
    if entry.tree:
        return {"name": entry.name, "tree": entry.tree}
    return {"name": entry.name, "sha256": entry.sha256, "size": entry.size}
