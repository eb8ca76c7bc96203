"""Which of several devices a toolchain works on, and who else uses it: over the stand-in."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Final

import pytest

from orchestrator.backends.neighbours import noted
from orchestrator.backends.tensorrt.failures import ToolchainError
from orchestrator.backends.tensorrt.probe import probe
from orchestrator.backends.tensorrt.toolchain import Answer, Toolchain, call
from orchestrator.backends.tensorrt.worker import (
    Cuda,
    Failure,
    Neighbours,
    Nvml,
    device_count,
    equal_devices,
)
from tests.backends.tensorrt.standin import command, cuda_runtime

UUIDS: Final = [f"GPU-5741d177-0000-4000-8000-{number:012}" for number in range(1, 5)]
#: The second is not what the others are; a driver keeps some more of the last one's memory.
FOUR: Final = [
    {"uuid": UUIDS[0]},
    {"uuid": UUIDS[1], "sms": 114},
    {"uuid": UUIDS[2]},
    {"uuid": UUIDS[3], "memory_bytes": (8 << 30) - (1 << 20)},
]


def toolchain(device: int = 0) -> Toolchain:
    return Toolchain(command=tuple(command()), device=device)


def asked(root: Path, device: int = 0, **request: Any) -> Answer:
    """Let the toolchain of four devices serve a request."""
    return call(toolchain(device), {"op": "probe", **request}, root)


@pytest.fixture(autouse=True)
def _four(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("STANDIN_DEVICE", json.dumps(FOUR))


@pytest.mark.parametrize(
    ("device", "visible", "equal"),
    [
        (0, None, [0, 2, 3]),
        (2, None, [2, 0, 3]),
        (1, None, [1]),
        (1, f"1,{UUIDS[3]},2", [3, 2]),
        (0, "2", [2]),
    ],
)
def test_equal_devices_are_found(
    device: int, visible: str | None, equal: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    cuda = Cuda(cuda_runtime)
    found = equal_devices(cuda, device, device_count(cuda))
    assert found == [UUIDS[number] for number in equal]


def test_a_probe_tells_them() -> None:
    found = probe(toolchain(device=2), None)
    assert found.devices == [UUIDS[2], UUIDS[0], UUIDS[3]]
    assert found.seen["device"]["uuid"] == UUIDS[2]


def test_it_works_on_the_one_that_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,2,0")
    answer = asked(tmp_path, device=1, gpu=UUIDS[2])
    assert answer.seen["device"]["uuid"] == UUIDS[2]
    assert answer.values["devices"] == [UUIDS[2]], "no other is to be seen"


def test_one_that_went_away_is_a_mismatch(tmp_path: Path) -> None:
    with pytest.raises(ToolchainError, match="that this was planned for is not there") as caught:
        asked(tmp_path, gpu="GPU-00000000-0000-0000-0000-000000000000")
    assert caught.value.kind == "mismatch", "so that the remembered probe is dropped"


@pytest.mark.parametrize("visible", ["", "7", "GPU-00000000-0000-0000-0000-000000000000"])
def test_that_they_are_hidden_is_said(visible: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    text = f"no CUDA device: CUDA_VISIBLE_DEVICES='{visible}' names none that is there"
    with pytest.raises(Failure, match=text) as caught:
        device_count(Cuda(cuda_runtime))
    assert "unset CUDA_VISIBLE_DEVICES" in caught.value.hint


# -- neighbours ------------------------------------------------------------------------------------


class Listed(Nvml):
    """An NVML that lists one set of processes after the other."""

    def __init__(self, *lists: dict[int, str]) -> None:
        self._lists = list(lists)

    def processes(self) -> dict[int, str]:
        return self._lists.pop(0)


ME, PARENT = os.getpid(), os.getppid()
OTHER: Final = {4_000_001: "python"}


@pytest.mark.parametrize(
    ("before", "later", "seen"),
    [
        ({}, {ME: "me"}, {}),
        ({PARENT: "shell"}, {PARENT: "shell", ME: "me"}, {}),
        (OTHER, {**OTHER, ME: "me"}, OTHER),
        (OTHER, {ME: "me"}, OTHER),  # it has ended meanwhile
        ({}, {**OTHER, ME: "me"}, OTHER),  # it came later
        ({}, {4_000_002: "host's name for me"}, {}),  # a container
        (OTHER, {**OTHER, 4_000_002: "host's name for me"}, OTHER),
        ({}, {}, {}),
    ],
)
def test_neighbours(before: dict[int, str], later: dict[int, str], seen: dict[int, str]) -> None:
    found = Neighbours(Listed(before, later)).seen()
    assert found == [{"pid": pid, "name": name} for pid, name in seen.items()]


def test_a_note_says_who_and_what_it_did() -> None:
    assert noted({"bytes": 1, "neighbours": []}, "slow") == {"bytes": 1}
    one = noted({"neighbours": [{"pid": 7, "name": ""}]}, "slow")
    assert one["notes"] == ["another process used the GPU, 7: slow"]
    six = noted({"neighbours": [{"pid": pid, "name": "python"} for pid in range(1, 7)]}, "slow")
    (note,) = six["notes"]
    assert note.startswith("6 other processes used the GPU, 1 (python), 2 (python), ")
    assert note.endswith("4 (python), and 2 more: slow")
    assert len(six["neighbours"]) == 6
