"""What the command line refuses in one message, in this process, before anything is made."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.cli.main import main
from tests.command import Workplace

USAGE = 2


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Return the message that *words* end in."""
    code = main(words)
    printed = capsys.readouterr()
    assert (code, printed.out) == (USAGE, "")
    assert printed.err.startswith("error: ")
    return printed.err


@pytest.mark.parametrize(
    "words",
    [
        ("gc", "--max-size", "5", "GB"),
        ("gc", "everything"),
        ("stats", "samples"),
        ("verify", "--max-size", "5GB"),
    ],
)
def test_cache_takes_no_word_that_it_does_not_use(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    assert f"cache {words[0]}" in refused(capsys, "cache", *words) or "--max-size" in words
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("action", ["stats", "gc"])
def test_a_directory_that_is_no_store_stays_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], action: str
) -> None:
    assert "is no store" in refused(capsys, "cache", action, "--dir", "typo")
    assert list(tmp_path.iterdir()) == []


def test_schemas_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert "--to file/below" in refused(capsys, "schema", "--to", "file/below")


def test_a_working_directory_that_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert "does not exist any more" in refused(capsys, "plan")


def test_a_word_that_is_no_text(capsys: pytest.CaptureFixture[str]) -> None:
    assert "is no UTF-8" in refused(capsys, "plan", "model.name=\udcff")


@pytest.mark.parametrize(
    ("shell", "environment"),
    [
        ('exec "$@" >&-', {}),
        ('exec "$@" >&- 2>&- <&-', {}),
        ('exec "$@"', {"LC_ALL": "C", "PYTHONIOENCODING": "ascii"}),
    ],
)
def test_streams_that_are_closed_or_ascii(
    tmp_path: Path, shell: str, environment: dict[str, str]
) -> None:
    place = Workplace.at(tmp_path / "place")
    # This help has a character that ASCII lacks.
    words = [sys.executable, "-m", "orchestrator.cli.main", "build", "--help"]
    ended = subprocess.run(
        ["sh", "-c", shell, "sh", *words],
        cwd=place.directory,
        env=place.environment(environment),
        capture_output=True,
        check=False,
    )

    assert (ended.returncode, ended.stderr) == (0, b"")
    assert (b"defaults, ?" in ended.stdout) == bool(environment)


def test_an_output_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "orchestrator.cli.main", "schema", "model"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            check=False,
        )
    assert done.returncode == os.EX_IOERR
    assert done.stderr.startswith("error: cannot write: No space left on device")
    assert "Traceback" not in done.stderr
