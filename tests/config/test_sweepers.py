"""Other sweepers than ours: Hydra's own and Optuna's choose, our launcher runs what they choose.

What a variant comes to is given here instead of built; tests/acceptance/test_optuna.py builds.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf

from orchestrator.config.batch import Batch, BatchTask, VariantReturn
from orchestrator.config.compose import Composer
from orchestrator.config.matrix import OURS
from orchestrator.config.searching import BASIC, told
from orchestrator.config.typed import composition
from orchestrator.errors import ConfigError, OrchestrateError, StageError
from orchestrator.report.objective import FailedTrialError
from tests.config.compose import refusal
from tests.plan.variants import keys

SIZES = {"fp32": 400.0, "fp16": 200.0, "int8": 100.0}
# The sampler tries all three; its first batch is fp16 and fp32.
OPTUNA = (
    "hydra/sweeper=optuna",
    "hydra/sweeper/sampler=random",
    "hydra.sweeper.sampler.seed=1",
    "hydra.sweeper.n_trials=4",
    "precision=choice(fp32,fp16,int8)",
    "benchmark=none",
)
SIZE = "objective.value=artifact_bytes"
ALL = "hydra.sweeper.max_failure_rate=1.0"

Outcome = Callable[[str], VariantReturn]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def sized(name: str) -> VariantReturn:
    """Return what a variant of the precision *name* comes to when all pass."""
    return VariantReturn(passed=True, value=SIZES[name])


def failing(*names: str) -> Outcome:
    """Return as :func:`sized`, where these precisions fail."""

    def outcome(name: str) -> VariantReturn:
        if name in names:
            return VariantReturn(passed=False, error=StageError("is too far off", where=name))
        return sized(name)

    return outcome


def sweep(*overrides: str, outcome: Outcome = sized, dry: bool = False) -> list[Batch]:
    """Sweep; return the batches that were run."""
    found: list[Batch] = []

    def run(batch: Batch) -> list[VariantReturn]:
        found.append(batch)
        return [outcome(variant.config.precision.name) for variant in batch.variants]

    with Composer() as composer:
        composer.run(
            [*overrides, "hydra.sweep.dir=sweep"], BatchTask(run=run, dry=dry), multirun=True
        )
    return found


def precisions(batches: list[Batch]) -> list[list[str]]:
    """Return the precisions of each batch."""
    return [[one.config.precision.name for one in batch.variants] for batch in batches]


def best(directory: str = "sweep") -> Any:
    """Return what Optuna's sweeper wrote at the end."""
    return yaml.safe_load(Path(directory, "optimization_results.yaml").read_text())


def test_hydra_s_own_sweeper_sends_batches_into_one_directory_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "sweep").mkdir()  # another sweep's
    batches = sweep(
        *("hydra/sweeper=basic", "hydra.sweeper.max_batch_size=2"),
        *("precision=fp32,fp16,int8", "benchmark=none"),
        outcome=failing("fp16"),
    )

    assert precisions(batches) == [["fp32", "fp16"], ["int8"]]
    assert [one.index for batch in batches for one in batch.variants] == [0, 1, 2]
    assert {batch.directory for batch in batches} == {tmp_path / "sweep-2"}
    assert [batch.matrix for batch in batches] == [None, None]
    assert list((tmp_path / "sweep").iterdir()) == []
    assert (tmp_path / "sweep-2" / "multirun.yaml").is_file()


@pytest.mark.slow
def test_optuna_s_sweeper_gets_numbers(tmp_path: Path) -> None:
    (tmp_path / "sweep").mkdir()
    batches = sweep(*OPTUNA, SIZE)

    assert precisions(batches) == [["fp16", "fp32"], ["int8", "int8"]]
    assert [one.index for batch in batches for one in batch.variants] == [0, 1, 2, 3]
    assert best("sweep-2") == {
        "name": "optuna",
        "best_params": {"precision": "int8"},
        "best_value": 100.0,
    }


def test_a_failed_variant_is_a_failed_trial(capfd: pytest.CaptureFixture[str]) -> None:
    batches = sweep(*OPTUNA, SIZE, ALL, outcome=failing("int8"))

    assert len(batches) == 2
    assert best()["best_params"] == {"precision": "fp16"}
    assert "Error executing job" not in capfd.readouterr().err


def test_a_batch_that_ends_the_sweep_is_the_last(tmp_path: Path) -> None:
    def outcome(name: str) -> VariantReturn:
        return VariantReturn(passed=False, interrupted=True, ends_sweep=True)

    batches = sweep(*OPTUNA, SIZE, ALL, outcome=outcome)

    assert precisions(batches) == [["fp16", "fp32"]]


@pytest.mark.parametrize(
    ("words", "says", "batches"),
    [
        (("hydra.sweeper.n_trials=2",), "at a failed trial: fp16: is too far off", 1),
        (("hydra.sweeper.n_trials=2", ALL), "no trial has a value", 1),
        (("hydra.sweeper.max_failure_rate=7",), "cannot begin: AssertionError", 0),
    ],
)
def test_a_search_without_success_is_one_message(
    words: tuple[str, ...], says: str, batches: int, tmp_path: Path
) -> None:
    runs: list[str] = []

    def outcome(name: str) -> VariantReturn:
        runs.append(name)
        return failing("fp16", "fp32")(name)

    with pytest.raises(OrchestrateError) as caught:
        sweep(*OPTUNA, SIZE, *words, outcome=outcome)

    assert says in caught.value.message
    assert len(runs) == 2 * batches
    assert (tmp_path / "sweep").exists() == bool(batches)


@pytest.mark.parametrize(
    "words",
    [
        ("hydra/sweeper=basic", "precision=fp32,fp16"),
        ("precision=fp32,fp16",),
    ],
)
def test_variants_are_named_alike_in_every_batch(words: tuple[str, ...]) -> None:
    batches = sweep(*words, "benchmark=none", "hydra.sweeper.max_batch_size=1")

    names = [[point.name for point in composition(batch).points] for batch in batches]
    assert names == [["precision=fp32"], ["precision=fp16"]]


@pytest.mark.slow
def test_several_numbers_for_several_directions() -> None:
    def outcome(name: str) -> VariantReturn:
        return VariantReturn(passed=True, value=(SIZES[name], {"fp16": 3.0}.get(name, 1.0)))

    words = (
        "objective.value=[artifact_bytes,snr_db]",
        "hydra.sweeper.direction=[minimize,maximize]",
    )
    sweep(*OPTUNA, *words, outcome=outcome)

    found = {(one["params"]["precision"], *one["values"]) for one in best()["solutions"]}
    assert found == {("int8", 100.0, 1.0), ("fp16", 200.0, 3.0)}


@pytest.mark.parametrize(
    ("words", "where", "says"),
    [
        ((SIZE, "+objective.limits.p99_ms.max=1"), "objective.limits.p99_ms", "not measured"),
        (("objective.value=task_drop", "model.task=null"), "objective.value", "no task metric"),
        (("objective.value=[metric,snr_db]",), "objective.value", "2 numbers"),
    ],
)
def test_an_objective_without_a_value_is_refused_before_anything_runs(
    words: tuple[str, ...], where: str, says: str
) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        sweep(
            *OPTUNA, *words, "hydra.sweeper.n_jobs=1", outcome=lambda name: pytest.fail("was run")
        )

    assert caught.value.where == where


def test_what_others_will_choose_is_not_planned(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="while they run") as caught:
        sweep(*OPTUNA, dry=True)

    assert caught.value.where == "hydra/sweeper"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("word", "where", "says"),
    [
        ("objective.value=p50", "objective.value", "did you mean 'p50_ms'"),
        ("objective.value=[]", "objective.value", "names no number"),
        ("+objective.limits.task_dop.max=1", "objective.limits", "did you mean 'task_drop'"),
        ("+objective.limits.metric={}", "objective.limits.metric", "needs min or max"),
        ("+objective.limits.metric={min: 2, max: 1}", "objective.limits.metric", "min <= max"),
    ],
)
def test_unknown_numbers_and_strange_limits_are_refused(word: str, where: str, says: str) -> None:
    error = refusal(word)

    assert error.where == f"{where} (command line)"
    assert says in error.render()


def test_the_objective_is_in_no_key() -> None:
    other = keys("objective.value=snr_db", "+objective.limits.max_error.max=0.1")

    assert len(other) > 10
    assert other == keys()


def config(target: str) -> DictConfig:
    return OmegaConf.create({"hydra": {"sweeper": {"_target_": target}}})


def task(*returns: VariantReturn, directory: Path | None = None) -> BatchTask:
    return BatchTask(run=lambda batch: [], returns=list(returns), directory=directory)


FAILED = VariantReturn(passed=True, error=FailedTrialError("is beyond a limit"))
CAUSED = InstantiationException("Error in call to target")
CAUSED.__cause__ = AssertionError("rate")


@pytest.mark.parametrize(
    ("returns", "raised", "says", "code"),
    [
        ([], ValueError("no such storage"), "cannot begin: ValueError: no such storage", 2),
        ([], CAUSED, "cannot begin: AssertionError: rate", 2),
        ([FAILED], FAILED.error, "ended the search at a failed trial: is beyond a limit", 1),
        ([FAILED], ValueError("none"), "no trial has a value (ValueError: none)", 1),
        ([FAILED, sized("fp16")], KeyError("x"), "the sweeper failed: KeyError: 'x'", 1),
    ],
)
def test_how_the_end_of_another_sweeper_is_told(
    returns: list[VariantReturn], raised: Exception, says: str, code: int
) -> None:
    with pytest.raises(OrchestrateError) as caught, told(config(BASIC), task(*returns)):
        raise raised

    assert (says in caught.value.message, caught.value.exit_code) == (True, code)
    assert caught.value.where == "hydra/sweeper"


@pytest.mark.parametrize("raised", [KeyboardInterrupt(), StageError("failed first")])
def test_a_sweep_that_was_to_end_says_nothing_more(raised: BaseException) -> None:
    with told(config(BASIC), task(sized("fp16"), VariantReturn(passed=False, ends_sweep=True))):
        raise raised


@pytest.mark.parametrize("target", [OURS, BASIC])
def test_faults_of_ours_stay_what_they_are(target: str) -> None:
    ours = task(sized("fp16"))
    ours.raised = ValueError("a fault")
    with pytest.raises(ValueError, match="a fault"), told(config(target), ours):
        raise ours.raised


def test_a_sweep_that_never_began_leaves_no_directory(tmp_path: Path) -> None:
    made = tmp_path / "sweep"
    made.mkdir()
    with pytest.raises(ConfigError), told(config(BASIC), task(directory=made)):
        raise ConfigError("wrong")

    assert not made.exists()
