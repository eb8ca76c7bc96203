"""What runs again gives the same: cached equals uncached, byte for byte."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.store.store import Store
from tests.acceptance.conftest import Site
from tests.command import Workplace


def results(place: Workplace) -> dict[str, tuple[str, Any, Any]]:
    """Stage, outputs and values by key; without what only measures."""
    return {
        result.key: (result.stage, dict(result.outputs), result.values)
        for result in Store(place.store).results.all()
        if result.stage != "benchmark"
    }


def test_rebuilding_a_stage_gives_the_same_bytes(
    demo: Site, copy_of: Callable[[Site], Workplace]
) -> None:
    place = copy_of(demo)
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
