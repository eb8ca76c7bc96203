from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from tests.executor.runs import Place


@pytest.fixture(autouse=True)
def empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty directory, with a store and a temporary folder that nobody else uses."""
    for name in ("work", "cache", "tmp"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    return tmp_path / "work"


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A place whose user code really runs."""
    return Place(tmp_path)
