"""A search with Optuna's sweeper over real builds: the best variant under a limit of accuracy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.acceptance.conftest import QUICK, Site
from tests.command import Built, Workplace

# The sampler tries all three in four trials.
SEARCH = (
    *("-m", "hydra/sweeper=optuna", "hydra/sweeper/sampler=random", "hydra.sweeper.sampler.seed=1"),
    *("hydra.sweeper.n_trials=4", "hydra.sweeper.max_failure_rate=1.0"),
    "precision=choice(fp32,fp16,int8)",
)

pytestmark = pytest.mark.slow


@pytest.fixture
def digits(demo: Site, copy_of: Callable[[Site], Workplace]) -> Workplace:
    """A working directory of its own beside a store in which the demo is built."""
    return copy_of(demo)


def best(built: Built) -> dict[str, Any]:
    """Return what the sweeper wrote at the end, in the sweep's directory."""
    path = Path(built.results["directory"], "optimization_results.yaml")
    return dict(yaml.safe_load(path.read_text()))


def tried(built: Built) -> dict[str, dict[str, Any]]:
    """Return the summary of each precision that was tried."""
    return {one["config"]["precision"]["name"]: one["summary"] for one in built.variants}


def test_the_smallest_artifact_under_a_limit_of_accuracy(digits: Workplace) -> None:
    limit = "+objective.limits.snr_db.min=40"
    built = digits.build(*SEARCH, "objective.value=artifact_bytes", limit, "benchmark=none")

    assert built.code == 0, built.text
    found = tried(built)
    assert len(built.variants) == 4
    assert found["int8"]["artifact_bytes"] < found["fp16"]["artifact_bytes"]
    assert found["int8"]["snr_db"] < 40 < found["fp16"]["snr_db"]
    assert best(built)["best_params"] == {"precision": "fp16"}
    assert best(built)["best_value"] == found["fp16"]["artifact_bytes"]
    assert built.ran() == set()  # all of it is the demo's
    notes = {one["config"]["precision"]["name"]: one["notes"] for one in built.variants}
    assert "less than 40 (objective.limits.snr_db.min)" in notes["int8"][-1]


def test_a_search_that_ends_early_still_shows_its_table(digits: Workplace) -> None:
    words = ("compare.int8.snr_db=99", "benchmark=none", "hydra.sweeper.max_failure_rate=0")
    ran = digits.run(*SEARCH, "objective.value=artifact_bytes", *words)

    assert ran.code == 1
    assert "FAILED" in ran.out
    assert "error: hydra/sweeper: the sweeper ended the search at a failed trial" in ran.err
    assert "Traceback" not in ran.text


def test_latency_that_was_measured_counts(digits: Workplace) -> None:
    built = digits.build(*SEARCH, "objective.value=p50_ms", *QUICK)

    assert built.code == 0, built.text
    assert best(built)["best_value"] == min(one["p50_ms"] for one in tried(built).values())


def test_a_variant_that_fails_is_a_failed_trial_and_the_exit_code_tells(digits: Workplace) -> None:
    words = ("objective.value=artifact_bytes", "compare.int8.snr_db=99", "benchmark=none")
    built = digits.build(*SEARCH, *words)

    assert built.code == 1
    statuses = {one["config"]["precision"]["name"]: one["status"] for one in built.variants}
    assert statuses == {"fp32": "passed", "fp16": "passed", "int8": "failed"}
    assert best(built)["best_params"] == {"precision": "fp16"}
    assert "Traceback" not in built.text


def test_hydra_s_own_sweeper_builds_in_batches(digits: Workplace) -> None:
    words = ("hydra.sweeper.max_batch_size=2", "precision=fp32,fp16,int8", "benchmark=none")
    built = digits.build("-m", "hydra/sweeper=basic", *words)

    assert built.code == 0, built.text
    sweep = yaml.safe_load(Path(built.results["directory"], "manifest.json").read_text())
    assert [one["status"] for one in sweep["variants"]] == ["passed"] * 3
    assert len({one["directory"] for one in sweep["variants"]}) == 3
