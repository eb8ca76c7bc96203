"""Experiment directories: made exclusively, filled with links into the store and with logs."""

from __future__ import annotations

import contextlib
import errno
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from orchestrator.errors import ConfigError
from orchestrator.store import digests

#: The file in which a sweep's directory has its configuration.
SWEPT: Final = "multirun.yaml"
_MAX_NAME_BYTES = 120  # file systems take 255 bytes; names get suffixes


def make_exclusively(wanted: Path) -> Path:
    """Make *wanted*, or with a suffix ``-2``, ``-3``, … when another run has that name.

    Raises:
        ConfigError: the directory cannot be made.
    """
    try:
        return _make_exclusively(wanted)
    except OSError as exc:
        raise ConfigError(
            f"the directory cannot be made ({exc.strerror}: {exc.filename})",
            where=str(wanted),
            hint="set hydra.run.dir (of a sweep: hydra.sweep.dir) to one that can be written",
        ) from exc


@contextmanager
def reserved(wanted: Path) -> Iterator[Path]:
    """Make *wanted* as :func:`make_exclusively` does, and give it back when nothing came of it.

    That is when the block ends with an exception and nothing but the configuration of a sweep is
    in it; the parents that were made for it go too.

    Raises:
        ConfigError: the directory cannot be made.
    """
    made = [parent for parent in wanted.absolute().parents if not parent.exists()]
    directory = make_exclusively(wanted)
    try:
        yield directory
    except (Exception, KeyboardInterrupt):
        if {path.name for path in directory.iterdir()} <= {SWEPT}:
            shutil.rmtree(directory)
            with contextlib.suppress(OSError):  # another run has put something there
                for parent in made:
                    parent.rmdir()
        raise


def _make_exclusively(wanted: Path) -> Path:
    wanted.parent.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        path = wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}")
        try:
            path.mkdir()
        except FileExistsError:
            if number == 1 and not path.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, "there is a file", str(path)) from None
            number += 1
        else:
            return path.absolute()


def variant_names(
    overrides: Sequence[Sequence[str]], fallbacks: Sequence[str], shared: set[str]
) -> list[str]:
    """Return a directory name for each variant of a run: ``precision=fp16``.

    Args:
        overrides: Each variant's overrides.
        fallbacks: Each variant's name when nothing is left.
        shared: What all variants of the sweep have, which is left out.
    """
    texts = [
        ",".join(text.lstrip("+") for text in own if text not in shared) or fallback
        for own, fallback in zip(overrides, fallbacks, strict=True)
    ]
    return _distinct([(text, _file_name(text)) for text in texts])


def _distinct(named: Sequence[tuple[str, str]]) -> list[str]:
    """Return the names; where different texts have one name, each gets a digest of its text."""
    texts: dict[str, set[str]] = {}
    for text, name in named:
        texts.setdefault(name, set()).add(text)
    return [
        f"{name}-{digests.of_bytes(text.encode())[:8]}" if len(texts[name]) > 1 else name
        for text, name in named
    ]


def _file_name(text: str) -> str:
    """Return *text* as a file name; one that had to be cut stays distinct by a digest."""
    name = re.sub(r"[^\w.,=+-]+", "_", text).strip("._") or "variant"
    encoded = name.encode()
    if len(encoded) <= _MAX_NAME_BYTES:
        return name
    kept = encoded[:_MAX_NAME_BYTES].decode(errors="ignore")  # a character cut in two is dropped
    return f"{kept}-{digests.of_bytes(text.encode())[:8]}"


def link_artifacts(directory: Path, artifacts: Mapping[str, Path]) -> None:
    """Link each artifact's read-only directory of the store under ``artifacts/``."""
    folder = directory / "artifacts"
    folder.mkdir(exist_ok=True)
    for name, target in artifacts.items():
        (folder / name).symlink_to(target)


def write_logs(directory: Path, logs: Mapping[str, str]) -> None:
    """Write the log of each action under ``logs/``."""
    folder = directory / "logs"
    folder.mkdir(exist_ok=True)
    for name, text in logs.items():
        file_name = re.sub(r"[^\w.-]+", "-", name)
        (folder / f"{file_name}.log").write_text(text, encoding="utf-8", errors="replace")
