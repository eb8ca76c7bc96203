"""The parent process as users start it: light, interruptible, and cached equal to uncached."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from orchestrator.store.collection import verify
from orchestrator.store.store import Store
from tests.command import Workplace
from tests.executor.processes import PATIENCE_S, until

SLOW_MODEL = """\
import os, time, torch
def make() -> torch.nn.Module:
    open("began", "a").close()
    while not os.path.exists("go"):
        time.sleep(0.01)
    return torch.nn.Linear(3, 2)
"""
MODEL = """\
name: small
factory: network:make
inputs: {x: {dtype: float32, shape: [batch, 3]}}
outputs: [y]
dims: {batch: {min: 1, opt: 2, max: 4}}
samples: {kind: generator, seed: 1}
"""


def small(place: Workplace, source: str) -> None:
    """Write a model of the user's own."""
    (place.directory / "network.py").write_text(source)
    model = place.directory / "conf" / "model" / "small.yaml"
    model.parent.mkdir(parents=True)
    model.write_text(MODEL)


def test_ctrl_c_keeps_what_is_finished_and_says_how_to_go_on(tmp_path: Path) -> None:
    place = Workplace.at(tmp_path)
    small(place, SLOW_MODEL)
    with subprocess.Popen(
        [sys.executable, "-m", "orchestrator.cli.main", "model=small", "benchmark=none"],
        cwd=place.directory,
        env=place.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        until((place.directory / "began").exists, "the model is being made")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert "Traceback" not in out + err
    assert "interrupted: 1 finished actions are kept; the same command goes on from there" in err
    store = Store(place.store)
    assert [result.stage for result in store.results.all()] == ["samples"]
    assert verify(store) == []
    manifests = list((place.directory / "outputs").rglob("manifest.json"))
    assert [json.loads(path.read_text())["status"] for path in manifests] == ["interrupted"]
    assert list((place.store / "tmp").iterdir()) == []


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workplace, Any]:
    """The bundled example, built once with the parent watched."""
    place = Workplace.at(tmp_path_factory.mktemp("built"))
    return place, place.watch("benchmark=none")


def test_the_parent_stays_light_while_it_builds(built: tuple[Workplace, Any]) -> None:
    _, watched = built
    assert watched.code == 0, watched.text
    assert watched.heavy == []
    assert watched.peak_kib < 200 * 1024


def test_a_second_run_runs_nothing(built: tuple[Workplace, Any]) -> None:
    place, _ = built
    again = place.watch("benchmark=none")
    assert again.code == 0, again.text
    assert re.match(r"\d+ cached · ", again.out.splitlines()[-1])
    assert again.heavy == []
    assert again.peak_kib < 200 * 1024


def results(place: Workplace) -> dict[str, tuple[str, Any, Any]]:
    """Stage, outputs and values by key; without what only measures."""
    return {
        result.key: (result.stage, dict(result.outputs), result.values)
        for result in Store(place.store).results.all()
        if result.stage != "benchmark"
    }


def test_rebuilding_a_stage_gives_the_same_bytes(
    built: tuple[Workplace, Any], tmp_path: Path
) -> None:
    place, _ = built
    before = results(place)
    words = [f"--rebuild={name}" for name in ("samples", "judge", "score", "audit", "canonicalize")]
    ran = place.run(*words, "benchmark=none")
    assert ran.code == 0, ran.text
    assert " ran, " in ran.out
    assert results(place) == before


@pytest.mark.slow
def test_a_cached_run_equals_an_uncached_one(tmp_path: Path) -> None:
    """Every stage of three precisions in two empty stores, one of them in another directory."""
    found = []
    for name in ("one", "two"):
        place = Workplace.at(tmp_path / name)
        # One worker and two: the order in which actions run changes nothing either.
        workers = f"executor.workers={1 if name == 'one' else 2}"
        ran = place.run("-m", "precision=fp32,fp16,int8", "benchmark=none", workers)
        assert ran.code == 0, ran.text
        found.append(results(place))
    one, two = found
    assert {stage for stage, _, _ in one.values()} >= {"export", "cast", "quantize", "build", "run"}
    assert one == two
