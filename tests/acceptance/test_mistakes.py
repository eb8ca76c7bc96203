"""Ordinary mistakes that are found before anything runs: one message, at once, nothing lost."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.acceptance.conftest import Site
from tests.calling import call
from tests.command import Ran, Workplace

USAGE = 2


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """Words on the command line and what the message must hold."""

    words: tuple[str, ...]
    says: tuple[str, ...]


def mistake(*words: str, says: tuple[str, ...]) -> Mistake:
    return Mistake(words=words, says=says)


MISTAKES = {
    "unknown key": mistake(
        "exporter.opsett=18", says=("exporter.opsett", "command line", "did you mean 'opset'?")
    ),
    "unknown key added": mistake(
        "+exporter.opsett=18", says=("exporter.opsett", "did you mean 'opset'?")
    ),
    "misspelt pass option": mistake(
        "exporter.constant_fold=true", says=("did you mean 'constant_folding'?",)
    ),
    "added where it is": mistake(
        "+exporter.opset=18", says=("exporter.opset", "is there already", "leave out the +")
    ),
    "unknown group": mistake("presicion=fp16", says=("presicion", "did you mean 'precision'?")),
    "unknown option of a group": mistake(
        "precision=fp61", says=("precision", "'fp61'", "did you mean 'fp16'?")
    ),
    "wrong type": mistake(
        "exporter.opset=eighteen",
        says=("exporter.opset (command line)", "valid integer", "'eighteen'"),
    ),
    "wrong value": mistake(
        "precision.name=fp17", says=("precision.name", "fp32, tf32, fp16", "did you mean 'fp16'?")
    ),
    "out of range": mistake(
        "model.batches=0", says=("model.batches", "greater than or equal to 1")
    ),
    "range upside down": mistake(
        "model.dims.batch.min=32", says=("model.dims.batch", "min <= opt <= max", "32, 16, 64")
    ),
    "profile outside the declared range": mistake(
        "+profile.dims.batch={min: 1, opt: 8, max: 100}",
        says=("profile.dims.batch", "1..100", "1..64"),
    ),
    "missing checkpoint": mistake(
        "model.checkpoint.path=weights.safetensor",
        says=("model.checkpoint.path", "no such file: weights.safetensor"),
    ),
    "missing config": mistake("model=digitz", says=("model", "'digitz'", "did you mean 'digits'?")),
    "missing primary config": mistake(
        "--config-name", "mine", says=("no configuration 'mine'", "./conf")
    ),
    "missing experiment": mistake(
        "+experiment=digits_precision", says=("did you mean 'digits_precisions'?",)
    ),
    "several values without -m": mistake(
        "precision=fp32,fp16", says=("precision=fp32,fp16", "add -m")
    ),
    "unreadable override": mistake("model.args={", says=("override 'model.args={'",)),
    "override without a key": mistake("=3", says=("key=value",)),
    "no verb": mistake("biuld", says=("'biuld'", "did you mean 'build'?")),
    "unknown flag": mistake("build", "--quite", says=("--quite", "did you mean '--quiet'?")),
    "unknown stage": mistake("--rebuild", "exports", says=("exports", "did you mean 'export'?")),
    "impure resolver": mistake(
        "model.name=${now:%H}", says=("model.name", "${now:...}", "another value at every run")
    ),
    "impure through another field": mistake(
        "experiment.description=${hydra:job.num}",
        "model.name=${experiment.description}",
        says=("model.name", "${hydra:...}", "not on what is built"),
    ),
    "chdir": mistake("hydra.job.chdir=true", says=("hydra.job.chdir", "leave it out")),
    "env_set": mistake(
        "+hydra.job.env_set.OMP_NUM_THREADS=1",
        says=("hydra.job.env_set", "OMP_NUM_THREADS", "in the shell"),
    ),
    "another launcher": mistake(
        "-m", "hydra/launcher=basic", says=("hydra/launcher", "without a shared graph")
    ),
    "toolchain for another backend": mistake(
        "toolchain.command=[python3.8]", says=("toolchain.command", "leave it null")
    ),
    "unresolvable": mistake("model.name=${nowhere.at.all}", says=("model.name", "nowhere")),
}


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    return Workplace.at(tmp_path_factory.mktemp("mistakes"))


def check(made: Mistake, ran: Ran) -> None:
    """Check that a command ended in one message: what, where, and what to do."""
    assert ran.code == USAGE, ran.text
    for part in made.says:
        assert part in ran.err
    assert ran.out == ""
    message, *hints = ran.err.strip().splitlines()
    assert message.startswith("error: ")
    assert all(line.startswith("  → ") for line in hints)
    assert len(hints) <= 2


@pytest.mark.parametrize("name", MISTAKES)
def test_one_message(empty: Workplace, name: str) -> None:
    check(MISTAKES[name], call(empty, *MISTAKES[name].words))


@pytest.mark.parametrize("name", ["no verb", "unknown key", "impure through another field"])
def test_the_command_says_so_at_once(empty: Workplace, name: str) -> None:
    ran = empty.watch(*MISTAKES[name].words)

    check(MISTAKES[name], ran)
    assert ran.heavy == []


def test_mistakes_leave_nothing_behind(empty: Workplace) -> None:
    # The parametrised tests above ran here.
    assert list(empty.directory.rglob("manifest.json")) == []


def test_a_user_s_file_is_named(gallery: Site, tmp_path: Path) -> None:
    place = gallery.place.copied(tmp_path)
    wrong = place.directory / "conf" / "model" / "tiny.yaml"
    wrong.write_text(wrong.read_text() + "batchs: 3\n")
    ran = place.watch("model=tiny")

    assert ran.code == USAGE
    assert "model.batchs (conf/model/tiny.yaml): unknown key" in ran.err
    assert "did you mean 'batches'?" in ran.err
    assert ran.heavy == []
