"""Several sweeps with common variants, started at once: each distinct action runs once in all."""

from __future__ import annotations

import signal
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from orchestrator.report.manifest import read_manifest
from orchestrator.store.collection import verify
from orchestrator.store.store import Store
from tests.chaos.host import left
from tests.chaos.project import WORDS, make_project
from tests.command import Workplace
from tests.executor.processes import until

# The variants of one are among the other's; and each has some of its own.
FIRST = (*WORDS, "hydra.sweep.dir=outputs/first")
SECOND = (*WORDS, "target.optimization_level=all,basic", "hydra.sweep.dir=outputs/second")
THIRD = (*WORDS, "precision=fp16,int8", "hydra.sweep.dir=outputs/third")


@pytest.fixture
def place(tmp_path: Path) -> Workplace:
    made = Workplace.at(tmp_path)
    make_project(made.directory)
    return made


def statuses(place: Workplace, name: str) -> dict[str, Counter[str]]:
    """Return how often a sweep's variants have each status, by action key."""
    found: dict[str, Counter[str]] = {}
    for path in (place.directory / "outputs" / name).glob("*/manifest.json"):
        for action in read_manifest(path.parent)["actions"]:
            found.setdefault(action["key"], Counter())[action["status"]] += 1
    return found


def ended_well(process: subprocess.Popen[str]) -> None:
    _, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, "")


@pytest.mark.slow
def test_two_at_once_run_each_action_once(place: Workplace) -> None:
    with place.running(*FIRST) as one, place.running(*SECOND) as other:
        ended_well(one)
        ended_well(other)
    first, second = statuses(place, "first"), statuses(place, "second")
    both = first.keys() & second.keys()

    assert len(both) == len(first) == 16
    assert len(second) > len(both)
    assert {key: first[key]["ran"] + second[key]["ran"] for key in both} == dict.fromkeys(both, 1)
    assert {second[key]["ran"] for key in second.keys() - both} == {1}
    for found in (*first.values(), *second.values()):
        assert found.keys() <= {"ran", "shared", "cached"}
    assert verify(Store(place.store)) == []


@pytest.mark.slow
def test_three_at_once_of_which_one_is_killed(place: Workplace) -> None:
    actions = place.store / "actions"
    with (
        place.running(*FIRST) as one,
        place.running(*SECOND) as killed,
        place.running(*THIRD) as other,
    ):
        until(lambda: len(list(actions.rglob("*.json"))) >= 4, "they are at work")
        killed.send_signal(signal.SIGKILL)
        ended_well(one)
        ended_well(other)
        assert killed.wait() == -signal.SIGKILL
    until(lambda: not left(place), "nothing of the killed one is left")
    first, third = statuses(place, "first"), statuses(place, "third")
    runs = {
        key: first.get(key, Counter())["ran"] + third.get(key, Counter())["ran"]
        for key in first.keys() | third.keys()
    }

    assert len(first.keys() & third.keys()) > 8
    assert set(runs.values()) <= {0, 1}, "0: the killed one had run it"
    assert verify(Store(place.store)) == []
