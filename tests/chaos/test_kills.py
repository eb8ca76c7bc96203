"""Processes of a sweep are killed at random moments; the store stays whole, the result the same."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from orchestrator.report.manifest import read_manifest
from orchestrator.store.collection import collect, verify
from orchestrator.store.store import Store
from tests.chaos.host import Command, Host, hosted
from tests.chaos.project import WORDS, make_project
from tests.chaos.sameness import Sweep, differences
from tests.command import Workplace
from tests.executor.processes import until

ROUNDS = 50
#: In turn. After a killed parent the next round goes on in its store; the others come to their end.
KINDS = ("parent", "worker", "parent", "server", "parent")
_LOOK_S = 0.002


@dataclass(frozen=True, kw_only=True)
class Undisturbed:
    """A run that nobody killed.

    Attributes:
        sweep: What it gave.
        results: How many results it stored.
        begun_s: When its first worker began, in seconds after its start.
        action_s: Its time for each action, in seconds.
    """

    sweep: Sweep
    results: int
    begun_s: float
    action_s: float


@dataclass(kw_only=True)
class Tally:
    """What the kills hit.

    Attributes:
        hit: By kind, the kills of a process of a running command.
        cut: Runs that were killed with some results stored and some not.
        again: Actions that were run again in the same run, their worker being lost.
        whole: Runs that came to their end.
    """

    hit: Counter[str] = field(default_factory=Counter)
    cut: int = 0
    again: int = 0
    whole: int = 0


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    made = Workplace.at(tmp_path_factory.mktemp("chaos"))
    make_project(made.directory)
    return made


@pytest.fixture(scope="module")
def host(place: Workplace) -> Iterator[Host]:
    with hosted(place) as found:
        yield found


@pytest.fixture(scope="module")
def undisturbed(place: Workplace, host: Host) -> Undisturbed:
    sweep = Sweep(directory=place.directory / "outputs" / "undisturbed", store=place.cache / "0")
    start = time.monotonic()
    command = begin(host, place, sweep)
    until(lambda: command.workers() or command.ended(), "the first worker is at work")
    begun = time.monotonic() - start
    assert command.code() == 0, log_of(sweep)
    worked = time.monotonic() - start - begun
    results = _stored(sweep.store)
    assert (len(sweep.variants), results) == (4, 16)
    return Undisturbed(sweep=sweep, results=results, begun_s=begun, action_s=worked / results)


def begin(host: Host, place: Workplace, sweep: Sweep) -> Command:
    directory = sweep.directory.relative_to(place.directory)
    where = (f"hydra.sweep.dir={directory}", f"cache.dir={sweep.store}")
    return host.start(_log(sweep), *WORDS, *where)


def log_of(sweep: Sweep) -> str:
    return _log(sweep).read_text()


def _log(sweep: Sweep) -> Path:
    return sweep.store.with_name(f"{sweep.directory.name}.log")


@contextlib.contextmanager
def opened(root: Path) -> Iterator[Store]:
    store = Store(root)
    try:
        yield store
    finally:
        store.index.close()


def strike(
    command: Command, kind: str, at_work: Callable[[], bool], delay_s: float, numbers: random.Random
) -> bool:
    """Kill a process of *command*, *delay_s* after it is at work, or as soon as there is one.

    Returns:
        False when the command ended before.
    """
    victims = {
        "parent": lambda: [command.pid],
        "server": command.server,
        "worker": command.workers,
    }[kind]
    ended = False
    while not ended and not at_work():
        ended = command.ended(_LOOK_S)
    ended = ended or command.ended(delay_s)
    while not ended:
        if found := victims():
            with contextlib.suppress(ProcessLookupError):
                os.kill(numbers.choice(found), signal.SIGKILL)
                return True
        ended = command.ended(_LOOK_S)
    return False


def moment(
    undisturbed: Undisturbed, kind: str, store: Path, results: int, numbers: random.Random
) -> tuple[Callable[[], bool], float]:
    """Return after which work to kill, and how long after it (seconds).

    The work is a number of results in *store*, which has *results* now: a time alone would miss the
    runs of a machine that is busier or idler than it was in the undisturbed run.
    """
    # The parent writes directories after the last; a worker to kill has to be there for a while.
    last = undisturbed.results - {"parent": 0, "server": 1, "worker": 4}[kind]
    goal = numbers.randint(results, max(results, last))
    delay = numbers.uniform(0, undisturbed.action_s)
    if goal == results:  # before the first: while it plans, or the server imports
        delay += numbers.uniform(0, undisturbed.begun_s)
    return lambda: _stored(store) >= goal, delay


def _stored(store: Path) -> int:
    return sum(1 for _ in (store / "actions").glob("??/[0-9a-f]*.json"))


def half_full(undisturbed: Undisturbed, root: Path, numbers: random.Random) -> None:
    """Make a store that lacks some of the results, but not what they point at."""
    shutil.copytree(undisturbed.sweep.store, root, symlinks=True)
    with opened(root) as store:
        for result in list(store.results.all()):
            if numbers.random() < 0.5:
                store.results.forget(result.key)


@pytest.mark.slow
def test_a_sweep_survives_kills(place: Workplace, host: Host, undisturbed: Undisturbed) -> None:
    seed = int(os.environ.get("CHAOS_SEED", time.time_ns()))
    print(f"CHAOS_SEED={seed}")
    tally, store_root, results = Tally(), place.cache / "1", 0
    for number in range(1, ROUNDS + 1):
        numbers = random.Random(f"{seed}/{number}")  # noqa: S311  # no secret
        sweep = Sweep(directory=place.directory / "outputs" / str(number), store=store_root)
        kind = KINDS[number % len(KINDS)]
        at_work, delay_s = moment(undisturbed, kind, store_root, results, numbers)
        command = begin(host, place, sweep)
        hit = strike(command, kind, at_work, delay_s, numbers)
        code = command.code()
        told = f"round {number}, {kind} killed: {hit}, seed {seed}\n{log_of(sweep)}"
        until(lambda: not host.left(), f"nothing is left; {told}")
        with opened(store_root) as store:
            assert verify(store) == [], told
        results = _stored(store_root)
        tally.hit[kind] += hit
        if code == -signal.SIGKILL and kind == "parent":
            tally.cut += 0 < results < undisturbed.results
            continue
        assert code == 0, told
        assert differences(undisturbed.sweep, sweep) == [], told
        tally.whole += 1
        tally.again += _run_again(sweep)
        store_root, results = place.cache / f"{number + 1}", 0
        if numbers.random() < 0.5:
            half_full(undisturbed, store_root, numbers)
            results = _stored(store_root)
    print(tally)
    assert min(tally.hit[kind] for kind in KINDS) >= ROUNDS // 20, "kills of each kind hit a run"
    assert tally.cut >= ROUNDS // 10, "parents were killed in the middle of the work"
    assert tally.again >= ROUNDS // 10, "workers were killed at work"
    sweep = Sweep(directory=place.directory / "outputs" / "last", store=store_root)
    assert begin(host, place, sweep).code() == 0, log_of(sweep)
    assert differences(undisturbed.sweep, sweep) == []
    with opened(store_root) as store:
        assert verify(store) == []
        collect(store, 0)
        assert list((store_root / "tmp").iterdir()) == []


def _run_again(sweep: Sweep) -> int:
    found = Counter[str]()
    for directory in sweep.variants.values():
        for action in read_manifest(directory)["actions"]:
            found[action["key"]] = max(found[action["key"]], action.get("retries", 0))
    return found.total()
