from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from tests.executor.runs import Place


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """An empty place, with a temporary folder (and machine lock) that nobody else uses."""
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    return Place(tmp_path)
