"""Failures that would come again are remembered, lost workers are replaced, a run may end early."""

from __future__ import annotations

import compileall
import dataclasses
import json
import os
import sys
import time
from collections.abc import Collection
from pathlib import Path

import pytest

from orchestrator.errors import StageError, WorkerLostError
from orchestrator.executor.outcome import Finished, Outcome
from orchestrator.plan.secrets import Secrets
from orchestrator.store.failures import Failure, Failures
from orchestrator.store.store import Store
from tests.command import Workplace
from tests.executor.runs import Place

NOTE = "    with open(HERE / 'starts', 'a') as file: file.write('x\\n')\n"
FUNCTION = f"def f(*, dims, offset, seed):\n{NOTE}"
RAISES = f"{FUNCTION}    print('in the log')\n    raise LookupError('no such word')\n"
AGAIN = "--retry-failed runs it again"


@dataclasses.dataclass
class Ran:
    """What became of a run, by the function that each action called."""

    outcome: Outcome
    by_function: dict[str, Finished]


def run(
    place: Place,
    *functions: str,
    retry_failed: bool = False,
    fail_fast: bool = False,
    retries: int = 0,
    rebuild: Collection[str] = (),
    secrets: Secrets | None = None,
) -> Ran:
    """Run one ``samples`` action for each function, one at a time; each is a variant's only one."""
    outcome, ids = place.outcome(
        functions,
        None,
        rebuild,
        1,
        sys.path,
        secrets,
        retry_failed=retry_failed,
        fail_fast=fail_fast,
        retries=retries,
    )
    return Ran(outcome, {name: outcome.finished[identity] for name, identity in ids.items()})


def one(place: Place, function: str = "f", *, retry_failed: bool = False) -> Finished:
    """Run one action."""
    return run(place, function, retry_failed=retry_failed).by_function[function]


def text(finished: Finished) -> str:
    """What the user is told of a failure."""
    assert isinstance(finished.error, StageError), finished
    return finished.error.render()


def test_a_failure_is_told_again_without_running(place: Place) -> None:
    place.write(RAISES)
    first, second = one(place), one(place)
    assert (first.status, first.remembered) == ("failed", False)
    assert (second.status, second.remembered, second.seconds) == ("failed", True, 0)
    assert place.starts("starts") == 1
    assert second.error is not None
    assert first.error is not None
    assert (second.error.message, second.error.where) == (first.error.message, first.error.where)
    assert "LookupError: no such word" in second.error.message
    assert "; failed before, " in second.error.hint
    assert second.error.hint.endswith(AGAIN)
    assert second.log == first.log
    assert "in the log\n" in second.log
    assert "Traceback" in second.log


def test_retry_failed_runs_it_again_but_once_a_run(place: Place) -> None:
    place.write(RAISES)
    one(place)
    assert not one(place, retry_failed=True).remembered
    assert place.starts("starts") == 2
    found = run(place, "f", "user:f", retry_failed=True).by_function
    assert {finished.status for finished in found.values()} == {"failed"}
    assert place.starts("starts") == 3, "equal actions share one failure"
    again = run(place, "f", rebuild=["samples"]).by_function["f"]
    assert not again.remembered
    assert place.starts("starts") == 4


USERS = {
    "source": RAISES,
    "reads": f"{FUNCTION}    if 'bad' in (HERE / 'data.txt').read_text(): raise ValueError('bad')\n"
    "    return image(dims)\n",
    "imports": f"import helper\n{FUNCTION}    return image(dims, helper.VALUE)\n",
    "catches": "try:\n    import optional\nexcept Exception:\n    optional = None\n"
    f"{FUNCTION}    return image(dims, optional.VALUE)\n",
}
CONTENTS = {
    "data.txt": ("bad", "good"),
    "helper.py": ("1/0", "VALUE = 1.0"),
    "optional.py": ("1/0", "VALUE = 1.0"),
}


def test_whatever_it_depended_on_was_edited_and_it_runs(place: Place) -> None:
    for module, source in USERS.items():
        place.write(source, module)
    for name, (before, _) in CONTENTS.items():
        (place.base / name).write_text(before)
    for path in place.base.glob("*.*"):
        os.utime(path, (time.time() - 60, time.time() - 60))
    functions = [f"{module}:f" for module in USERS]

    def remembered() -> list[bool]:
        return [one.remembered for one in run(place, *functions).by_function.values()]

    assert remembered() == [False] * 4
    assert remembered() == [True] * 4
    # What was compiled is not read from its source: that must be recorded no less exactly.
    assert compileall.compile_dir(place.base, quiet=1)
    run(place, *functions, retry_failed=True)
    assert remembered() == [True] * 4
    place.write(f"{FUNCTION}    return image(dims)\n", "source")
    for name, (_, after) in CONTENTS.items():
        (place.base / name).write_text(after)
    ended = run(place, *functions).by_function
    assert {name: one.status for name, one in ended.items()} == dict.fromkeys(functions, "ran")


def test_a_module_that_appears_makes_it_run(place: Place) -> None:
    place.write(f"import missing_one\n{FUNCTION}    return image(dims, missing_one.VALUE)\n")
    assert "there is no module" in text(one(place)) or "missing_one" in text(one(place))
    assert one(place).remembered
    (place.base / "missing_one.py").write_text("VALUE = 1.0\n")
    assert one(place).status == "ran"


def test_a_wrong_name_is_remembered_until_it_is_there(place: Place) -> None:
    place.write("")
    assert "has no 'f'" in text(one(place))
    assert one(place).remembered
    place.write(f"{FUNCTION}    return image(dims)\n")
    assert one(place).status == "ran"


def test_an_environment_variable_that_it_asked_for_counts(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.write(
        f"{FUNCTION}    if os.environ['MODE_OF_TEST'] == 'bad': sys.exit(3)\n"
        "    return image(dims)\n"
    )
    monkeypatch.setenv("MODE_OF_TEST", "bad")
    assert "called sys.exit(3)" in text(one(place))
    assert one(place).remembered
    monkeypatch.setenv("MODE_OF_TEST", "good")
    assert one(place).status == "ran"


PASSING = {
    "outside": "raise ConnectionRefusedError('the server is asleep')",
    "absent": "open(HERE / 'not_there')",
    "memory": "raise RuntimeError('[enforce fail] DefaultCPUAllocator: not enough memory')",
    "caused": "raise ValueError('no data') from FileNotFoundError('x')",
    "import_name": "from os import no_such_name",
    "lost": "os._exit(1)",
    "ended": "os.kill(os.getpid(), signal.SIGTERM)",
}


def test_what_may_pass_is_not_remembered(place: Place) -> None:
    for module, line in PASSING.items():
        place.write(f"{FUNCTION}    {line}\n", f"passing_{module}")
    functions = [f"passing_{module}:f" for module in PASSING]
    for number in (1, 2):
        ended = run(place, *functions).by_function
        assert {(one.status, one.remembered) for one in ended.values()} == {("failed", False)}
        assert place.starts("starts") == number * len(PASSING)
    assert list(Failures(place.store).all()) == []


def test_a_timeout_is_not_remembered(place: Place) -> None:
    place.write(f"{FUNCTION}    time.sleep(600)\n")
    for number in (1, 2):
        assert "took longer than" in text(place.run("f", timeout_s=0.5)["f"])
        assert place.starts("starts") == number
    assert list(Failures(place.store).all()) == []


def test_a_success_removes_the_record(place: Place) -> None:
    place.write(f"{FUNCTION}    if not (HERE / 'there').is_dir(): raise ValueError('not there')\n"
                "    return image(dims)\n")  # fmt: skip
    one(place)
    assert len(list(Failures(place.store).all())) == 1
    (place.base / "there").mkdir()
    assert one(place).remembered, "nobody can see that it asked whether a file is there"
    assert one(place, retry_failed=True).status == "ran"
    assert list(Failures(place.store).all()) == []
    assert not list(place.store.rglob("failures/*/*"))


def test_secrets_are_hidden(place: Place) -> None:
    secret = "correct-horse-battery"  # noqa: S105
    place.write(f"{FUNCTION}    print('{secret}')\n    raise LookupError('{secret}')\n")
    secrets = Secrets({"TOKEN": secret})
    run(place, "f", secrets=secrets)
    files = [path for path in (place.store / "failures").rglob("*") if path.is_file()]
    assert len(files) == 1
    assert secret not in files[0].read_text()
    assert "<env TOKEN sha256:" in files[0].read_text()
    assert run(place, "f", secrets=secrets).by_function["f"].remembered


DAMAGES = {
    "no object": (b"{", b"["),
    "another schema": (b'"schema": 1', b'"schema": 2'),
    "another field": (b'"hint"', b'"hunt"'),
    "another key": (b'"key": "', b'"key": "0'),
    "another type": (b'"times": 1', b'"times": "1"'),
}


@pytest.mark.parametrize("what", DAMAGES)
def test_a_damaged_or_foreign_record_is_none(tmp_path: Path, what: str) -> None:
    failures = Failures(tmp_path)
    failures.add(failure())
    (path,) = tmp_path.rglob("*.json")
    data = path.read_bytes()
    assert len(failures.under("ab" * 32)) == 1
    path.write_bytes(data.replace(*DAMAGES[what], 1))
    assert path.read_bytes() != data
    assert failures.under("ab" * 32) == []
    assert list(failures.all()) == []


@pytest.mark.parametrize("by", ["cut off", "other code of ours"])
def test_a_record_that_does_not_hold_is_a_miss(place: Place, by: str) -> None:
    place.write(RAISES)
    one(place)
    (path,) = (place.store / "failures").rglob("*.json")
    data = path.read_bytes()
    other = data[: len(data) // 2] if by == "cut off" else data.replace(b'"by": "', b'"by": "0', 1)
    path.write_bytes(other)
    assert not one(place).remembered
    assert place.starts("starts") == 2
    assert one(place).remembered


def test_a_lost_worker_is_replaced_as_often_as_asked(place: Place) -> None:
    place.write(
        f"{FUNCTION}    print('attempt', len(open(HERE / 'starts').readlines()), flush=True)\n"
        "    if len(open(HERE / 'starts').readlines()) < 3: os._exit(1)\n    return image(dims)\n"
    )
    lost = run(place, "f", retries=1)
    (finished,) = lost.by_function.values()
    assert (finished.status, finished.retries, place.starts("starts")) == ("failed", 1, 2)
    assert isinstance(finished.error, WorkerLostError)
    assert "attempt 1\n--- retry 1 of 1: the worker of 'samples' ended" in finished.log
    assert finished.log.rstrip().endswith("attempt 2")
    assert lost.outcome.warnings == [
        "a worker of 'samples' was lost: the action was run again (its log says why)"
    ]
    (place.base / "starts").unlink()
    (finished,) = run(place, "f", retries=2).by_function.values()
    assert (finished.status, finished.retries) == ("ran", 2)
    assert place.starts("starts") == 2 + 3, "once for each point when it succeeds"
    assert finished.result is not None
    log = (Store(place.store).trees.path(finished.result.log) / "log.txt").read_text()
    assert log.index("attempt 1") < log.index("retry 2 of 2") < log.index("attempt 3")


@pytest.mark.parametrize("how", ["SIGINT", "SIGTERM"])
def test_whom_somebody_asked_to_end_is_not_started_again(place: Place, how: str) -> None:
    place.write(f"{FUNCTION}    os.kill(os.getpid(), signal.{how})\n    time.sleep(600)\n")
    (finished,) = run(place, "f", retries=3).by_function.values()
    assert (finished.status, finished.retries, place.starts("starts")) == ("failed", 0, 1)


def test_a_refusal_or_want_of_memory_is_not_tried_again(place: Place) -> None:
    place.write(f"{RAISES}def g(*, dims, offset, seed):\n{NOTE}    raise MemoryError\n")
    assert {one.retries for one in run(place, "f", "g", retries=3).by_function.values()} == {0}
    assert place.starts("starts") == 2


def test_a_server_that_dies_takes_no_action_with_it(place: Place) -> None:
    place.write(
        f"{FUNCTION}    if len(open(HERE / 'starts').readlines()) == 1:\n"
        "        os.kill(os.getppid(), signal.SIGKILL); time.sleep(600)\n    return image(dims)\n"
    )
    (finished,) = run(place, "f", retries=1).by_function.values()
    assert (finished.status, finished.retries, place.starts("starts")) == ("ran", 1, 1 + 3)


def test_fail_fast_ends_the_run_and_says_so(place: Place) -> None:
    place.write(
        f"def fine(*, dims, offset, seed):\n    return image(dims)\n{RAISES}"
        "def late(*, dims, offset, seed):\n    (HERE / 'late').touch()\n    return image(dims)\n"
    )
    ran = run(place, "fine", "f", "late", fail_fast=True)
    assert {name: one.status for name, one in ran.by_function.items()} == {
        "fine": "ran",
        "f": "failed",
        "late": "skipped",
    }
    assert "not run: f failed, and --fail-fast ended the run" in text(ran.by_function["late"])
    assert (ran.outcome.stopped, list(ran.outcome.failures)) == ("f", [1])
    assert ran.outcome.warnings == ["--fail-fast: f failed, so 1 others are skipped"]
    assert not (place.base / "late").exists()
    again = run(place, "f", "late", fail_fast=True)
    assert again.by_function["late"].status == "skipped", "a remembered failure is one, too"
    assert run(place, "f", "late").by_function["late"].status == "ran"


def failure(**fields: object) -> Failure:
    return dataclasses.replace(Failure(key="ab" * 32, stage="build", message="no"), **fields)  # type: ignore[arg-type]


def test_what_must_come_twice_counts_when_it_came_alike_twice(tmp_path: Path) -> None:
    failures = Failures(tmp_path)
    first = failures.add(failure(message="no kernel at 0xbeef after 12 ms", needed=2))
    assert not first.counts
    other = failures.add(failure(message="another reason", needed=2))
    assert not other.counts
    failures.add(failure(message="no kernel at 0xbeef after 12 ms", needed=2))
    assert failures.add(failure(message="no kernel at 0xcafe after 9 ms", needed=2)).counts
    (stored,) = failures.under("ab" * 32)
    assert (stored.counts, stored.times) == (True, 2)


def test_a_store_keeps_a_few_short_records_a_key(tmp_path: Path) -> None:
    failures = Failures(tmp_path)
    for number in range(9):
        failures.add(failure(observed={"files": {"x": str(number)}}, log="begin" + "x" * 10**6))
    kept = failures.under("ab" * 32)
    assert [one.observed for one in kept] == [{"files": {"x": str(n)}} for n in (8, 7, 6, 5)]
    assert all(len(one.log) < 140_000 and one.log.startswith("begin") for one in kept)
    (path,) = tmp_path.rglob("*.json")
    assert json.loads(path.read_bytes())["schema"] == 1


def test_failures_are_forgotten_by_stage_key_and_age(tmp_path: Path) -> None:
    failures = Failures(tmp_path)
    keys = {stage: letter * 64 for stage, letter in zip(("build", "run", "cast"), "abc")}  # noqa: B905
    for stage, key in keys.items():
        failures.add(failure(key=key, stage=stage, created=100.0))
    assert [one.stage for one in failures.forget_matching("build")] == ["build"]
    assert failures.forget_matching("b") == []
    assert [one.stage for one in failures.forget_matching("b" * 8)] == ["run"]
    failures.add(failure(created=200.0))
    (tmp_path / "failures" / "ab" / ".left.json.1").write_text("{")
    assert failures.prune(before=150.0) == 1
    assert [one.created for one in failures.all()] == [200.0]
    assert not list(tmp_path.rglob(".left*"))


WRONG = (
    "def data(*, dims, offset, seed):\n    print('asked', flush=True)\n"
    "    raise ValueError('never any data')\n"
)


@pytest.fixture
def project(tmp_path: Path) -> Workplace:
    """A project with a data function that refuses."""
    workplace = Workplace.at(tmp_path)
    conf = workplace.directory / "conf" / "model"
    conf.mkdir(parents=True)
    (conf / "wrong.yaml").write_text(
        "name: wrong\nfactory: wrong:make\ninputs: {x: {dtype: float32, shape: [batch, 4]}}\n"
        "outputs: [y]\ndims: {batch: {min: 1, opt: 2, max: 4}}\n"
        "samples: {kind: callable, function: 'wrong:data'}\n"
    )
    (workplace.directory / "wrong.py").write_text(WRONG)
    return workplace


def test_the_command_ends_early_tells_again_and_runs_again(project: Workplace) -> None:
    sweep = ("-m", "--fail-fast", "model=wrong,digits", "benchmark=none", "executor.workers=1")
    ran = project.run(*sweep)
    assert ran.code == 1
    assert "FAILED model=wrong" in ran.err
    assert "--fail-fast: model=wrong failed, so 1 others are skipped" in ran.text
    assert "FAILED model=digits" not in ran.err
    assert "failed before" not in ran.text

    told = project.build("model=wrong", "benchmark=none")
    assert told.code == 1
    (manifest,) = told.variants
    (failed,) = [one for one in manifest["failures"] if "never any data" in one["message"]]
    assert AGAIN in failed["hint"]
    logs = Path(manifest["directory"]) / "logs"
    assert any("asked\n" in path.read_text() for path in logs.iterdir())
    assert not any(one["status"] == "ran" for one in manifest["actions"])

    again = project.build("--retry-failed", "model=wrong", "benchmark=none")
    assert again.code == 1
    assert "never any data" in again.text
    assert "failed before" not in again.text
    assert project.whole()
