"""How a request and its files reach a toolchain, and how its results come back.

In a directory that both sides see, or as tar streams over the toolchain's stdin and stdout.
"""

from __future__ import annotations

import io
import json
import shlex
import shutil
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Final

from orchestrator.errors import StageError

Json = dict[str, Any]

REQUEST: Final = "request.json"
RESULT: Final = "result.json"
CARRIER: Final = Path(__file__).with_name("carrier.py")
NO_STDIN: Final = 97
"""Exit code of a toolchain whose Python found its stdin empty (docker run without -i)."""

# Reads one line from stdin, byte by byte so that nothing after it is swallowed, and runs it.
# Without ', \, ! and newline: the words also pass through the shell of an ssh host, whichever.
BOOTSTRAP: Final = f'exec(eval(open(0,"rb",0,closefd=False).readline()or b"exit({NO_STDIN})"))'
_FRAME_BYTES: Final = 1 << 20
_LINE_BYTES: Final = 1 << 26  # a longer line is no event of ours


def arguments(*, remote_shell: bool) -> list[str]:
    """Return what follows ``toolchain.command``: Python's arguments.

    Args:
        remote_shell: They pass through a shell on their way (ssh joins its arguments with blanks
            and hands the text to the login shell), so they are quoted for one.
    """
    words = ["-c", BOOTSTRAP]
    return [shlex.quote(word) for word in words] if remote_shell else words


def head(worker: Path, worker_arguments: Sequence[str], *, files: bool) -> bytes:
    """Return the first bytes for the toolchain's stdin: the carrier, and the worker's source.

    Raises:
        OSError: one of them cannot be read.
    """
    source = worker.read_bytes()
    header = {
        "source_bytes": len(source),
        "name": worker.name,
        "arguments": list(worker_arguments),
        "files": files,
    }
    carrier = ascii(CARRIER.read_text(encoding="utf-8"))
    return b"".join([carrier.encode(), b"\n", json.dumps(header).encode(), b"\n", source])


def relative(name: str) -> str:
    """Return *name* if it stays inside the directory that it is relative to.

    Raises:
        ValueError: it is absolute, empty, or leads out.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise ValueError(f"'{name}' leads out of the directory")
    return str(path)


def place(directory: Path, files: Mapping[str, Path], *, link: bool) -> None:
    """Make *files* (relative name → file or directory) visible in *directory*.

    Args:
        directory: The directory of the request.
        files: What to make visible; a name that is there already is left as it is.
        link: By symbolic links; otherwise by copies, for a directory that is mounted elsewhere.

    Raises:
        OSError: one does not exist, or the disk is full.
    """
    for name, source in files.items():
        target = directory / relative(name)
        if target.exists():
            continue
        source.stat()
        target.parent.mkdir(parents=True, exist_ok=True)
        if link:
            target.symlink_to(source.absolute(), target_is_directory=source.is_dir())
        elif source.is_dir():
            shutil.copytree(source, target)
        else:
            shutil.copyfile(source, target)


def send(write: Callable[[bytes], None], directory: Path, files: Mapping[str, Path]) -> None:
    """Send the request in *directory* and *files* as frames that hold one tar stream.

    Links are followed; owners, modes and times stay at home.

    Raises:
        OSError: a file cannot be read, or the far side has gone (BrokenPipeError).
    """
    frames = _Frames(write)
    with (
        io.BufferedWriter(frames, _FRAME_BYTES) as buffer,
        tarfile.open(fileobj=buffer, mode="w|", dereference=True) as tar,
    ):
        for name, path in {REQUEST: directory / REQUEST, **files}.items():
            tar.add(path, relative(name), filter=_anonymous)
    write(b"%08x" % 0)


class _Frames(io.RawIOBase):
    """Writes each block with its length before it."""

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self._write = write

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        block = bytes(data)
        if block:  # an empty frame ends the stream
            self._write(b"%08x" % len(block) + block)
        return len(block)


def _anonymous(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.uid = info.gid = info.mtime = 0
    info.uname = info.gname = ""
    info.mode = 0o755 if info.isdir() else 0o644
    return info


def receive(archive: Path, directory: Path) -> None:
    """Unpack the tar file that a toolchain sent into *directory*: plain files and folders only.

    Raises:
        StageError: it is damaged, or names anything that is no file below *directory*.
        OSError: the disk is full.
    """
    try:
        with tarfile.open(archive, "r:") as tar:
            for member in tar:
                if member.name in (".", "./"):
                    continue
                target = directory / relative(member.name)
                if any(parent.is_symlink() for parent in _below(target, directory)):
                    raise ValueError(f"'{member.name}' leads through a link")
                if member.isdir():
                    target.mkdir(parents=True, exist_ok=True)
                    continue
                source = tar.extractfile(member) if member.isreg() else None
                if source is None:
                    raise ValueError(f"'{member.name}' is no plain file")
                target.parent.mkdir(parents=True, exist_ok=True)
                with source, target.open("wb") as file:
                    shutil.copyfileobj(source, file, _FRAME_BYTES)
    except (tarfile.TarError, ValueError) as exc:
        raise StageError(
            f"the toolchain sent files that cannot be taken: {exc}",
            where="toolchain.command",
            hint="nothing may write to the worker's standard output: look for a start-up script "
            "that prints, or a terminal (docker run -t, ssh -t)",
        ) from exc


def _below(target: Path, directory: Path) -> Iterator[Path]:
    while target != directory:
        yield target
        target = target.parent


class Lines:
    """Takes a toolchain's stdout apart: events, other lines, and the bytes of files.

    Args:
        archive: Where the bytes after a ``files`` event go.
    """

    def __init__(self, archive: Path) -> None:
        self._archive = archive
        self._buffer = b""
        self._missing = 0

    def feed(self, data: bytes) -> Iterator[Json | str]:
        """Yield each event, and each other line as text, that *data* completes.

        Raises:
            OSError: the disk is full.
        """
        self._buffer += data
        while self._buffer:
            if self._missing:
                self._store()
                continue
            line, end, rest = self._buffer.partition(b"\n")
            if not end and len(line) < _LINE_BYTES:
                return
            self._buffer = rest
            found = _event(line)
            if isinstance(found, dict) and found["event"] == "files":
                self._missing = int(found["bytes"])
                self._archive.write_bytes(b"")
            elif found:
                yield found

    def finish(self) -> str:
        """Return the last line, if nothing ended it."""
        rest, self._buffer = self._buffer, b""
        return "" if self._missing else rest.decode(errors="replace").strip()

    @property
    def complete(self) -> bool:
        """Whether a tar stream was announced and all of it has come."""
        return not self._missing and self._archive.exists()

    def _store(self) -> None:
        part, self._buffer = self._buffer[: self._missing], self._buffer[self._missing :]
        self._missing -= len(part)
        with self._archive.open("ab") as file:
            file.write(part)


def _event(line: bytes) -> Json | str:
    text = line.decode(errors="replace").rstrip()
    if text.startswith("{"):
        try:
            found = json.loads(text)
        except ValueError:
            return text
        if isinstance(found, dict) and isinstance(found.get("event"), str):
            return found
    return text
