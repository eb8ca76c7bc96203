"""Locks of GPUs."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.executor import machine
from orchestrator.executor.machine import try_devices

BOTH = ("GPU-1", "GPU-2")


@pytest.fixture(autouse=True)
def _common(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_COMMON", tmp_path)


def test_each_gpu_has_one_user_that_is_alone() -> None:
    first, second = (try_devices(BOTH, alone=True) for _ in range(2))
    assert first is not None
    assert second is not None
    assert (first[0], second[0]) == BOTH
    assert try_devices(BOTH, alone=True) is None
    assert try_devices(BOTH, alone=False) is None
    first[1].release()
    again = try_devices(BOTH, alone=False)
    assert again is not None
    assert again[0] == "GPU-1"


def test_those_that_share_take_an_idle_one_first() -> None:
    held = [try_devices(BOTH, alone=False) for _ in range(3)]
    assert [one[0] for one in held if one] == ["GPU-1", "GPU-2", "GPU-1"]
    assert try_devices(BOTH, alone=True) is None
    assert held[1] is not None
    held[1][1].release()
    freed = try_devices(BOTH, alone=True)
    assert freed is not None
    assert freed[0] == "GPU-2"
