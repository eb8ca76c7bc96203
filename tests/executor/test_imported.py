"""Distributions that user code uses only through others, loaded before or not."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.executor import imported


def install(folder: Path, name: str, *requires: str) -> None:
    module = name.replace("-", "_")
    info = folder / f"{module}-1.0.dist-info"
    info.mkdir()
    lines = [f"Name: {name}", "Version: 1.0", *(f"Requires-Dist: {text}" for text in requires)]
    (info / "METADATA").write_text("Metadata-Version: 2.1\n" + "\n".join(lines) + "\n")
    (folder / f"{module}.py").write_text("")
    (info / "RECORD").write_text(f"{module}.py,,\n")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.syspath_prepend(str(tmp_path))
    install(tmp_path, "qd-front", "QD.Middle>=1", "qd-extra; extra == 'more'")
    install(tmp_path, "qd-middle", "qd-back")
    for name in ("qd-back", "qd-extra", "qd-other"):
        install(tmp_path, name)
    before = set(sys.modules)
    _forget()
    yield tmp_path
    _forget()
    for name in set(sys.modules) - before:
        del sys.modules[name]


def _forget() -> None:
    """A worker asks once; here each test has distributions of its own."""
    cached = (imported._installed, imported._listings, imported._name)
    for function in (*cached, imported._record_text, imported._required):
        function.cache_clear()


def test_what_was_loaded_before_counts_where_it_is_required(site: Path) -> None:
    for name in ("qd_back", "qd_extra", "qd_other", "qd_front"):
        importlib.import_module(name)

    assert imported.classify({"qd_front"}, sys.path).distributions == {"qd-front", "qd-back"}


def test_what_was_not_loaded_does_not(site: Path) -> None:
    importlib.import_module("qd_front")

    assert imported.classify({"qd_front"}, sys.path).distributions == {"qd-front"}
