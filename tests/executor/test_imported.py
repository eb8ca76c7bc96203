"""Distributions that user code uses only through others, whatever the server had imported."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.executor import imported
from orchestrator.executor.needs import _MODULES


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
    install(tmp_path, "qd-front", "QD.Middle>=1", "pillow; extra == 'images'")
    install(tmp_path, "qd-middle", "NumPy>=1", "qd-back")
    install(tmp_path, "qd-back")
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_what_the_server_imports_counts_where_it_is_required(site: Path) -> None:
    importlib.import_module("qd_front")

    assert imported.classify({"qd_front"}, sys.path).distributions == {"qd-front", "numpy"}


def test_all_that_the_server_imports_is_known() -> None:
    assert set(_MODULES) == imported.PRELOADED
