"""Several processes, one store: a key is built once, whoever dies in between."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable

import psutil
import pytest

from orchestrator.errors import StoreError
from orchestrator.executor.outcome import Estimates, Finished
from orchestrator.executor.pool import Pool
from orchestrator.plan.graph import Action, Graph, Variant
from orchestrator.store.collection import _sweep_temporary, collect, verify
from orchestrator.store.store import Store
from tests.executor.processes import answer, is_running, running, until
from tests.executor.runs import Place, Silent

# Notes each start of user code, then works until the file `go` is there.
SOURCE = """
def slow(*, dims, offset, seed):
    if dims["batch"] == 1:
        with open(HERE / "starts", "a") as file:
            print(os.getpid(), file=file)
        (HERE / "began").touch()
        for _ in range(3000):  # bounded, so that a broken test ends
            if os.access(HERE / "go", os.F_OK): break
            time.sleep(0.01)
        (HERE / "finished").touch()
    return image(dims)
"""


class Once(Silent):
    """Does something when an action has to wait for another process."""

    def __init__(self, do: Callable[[], None]) -> None:
        super().__init__()
        self._do = do

    def waiting(self, action: Action, reason: str) -> None:
        super().waiting(action, reason)
        self._do()


def test_two_processes_build_a_key_once(place: Place) -> None:
    place.write(SOURCE)
    with running(place, "slow") as first:
        until((place.base / "began").exists, "the first builder is at work")
        with running(place, "slow") as second:
            # The second one is at the lock when it has begun its session.
            until(lambda: len(list((place.store / "tmp").glob("*.lock"))) == 2, "both are there")
            assert second.poll() is None
            (place.base / "go").touch()
            assert answer(first)["statuses"] == {"slow": "ran"}
            found = answer(second)
    assert found["statuses"] in ({"slow": "shared"}, {"slow": "cached"})
    assert place.starts("starts") == 1
    assert verify(Store(place.store)) == []


def test_one_that_waited_says_shared(place: Place) -> None:
    place.write(SOURCE)
    with running(place, "slow") as first:
        until((place.base / "began").exists, "the builder is at work")
        place.listener = Once((place.base / "go").touch)
        assert place.run("slow")["slow"].status == "shared"
        assert answer(first)["statuses"] == {"slow": "ran"}
    assert place.listener.waits == ["another worker is building the same"]
    assert place.starts("starts") == 1


def test_what_another_run_builds_before_its_turn_is_shared(place: Place) -> None:
    place.write(
        "def f(*, dims, offset, seed):\n    return image(dims)\n"
        "def g(*, dims, offset, seed):\n    return image(dims, 1.0)\n"
    )
    other = Place(place.root)
    meanwhile: dict[str, Finished] = {}

    class Meanwhile(Silent):
        def started(self, action: Action, variants: list[Variant]) -> None:
            meanwhile.update(other.run("g"))

    place.listener = Meanwhile()
    found = place.run("f", "g", workers=1)
    assert {name: one.status for name, one in found.items()} == {"f": "ran", "g": "shared"}
    assert meanwhile["g"].status == "ran"


def test_a_run_that_broke_off_holds_no_lock(place: Place) -> None:
    """A process may go on after it, and the same key must not wait for itself."""

    class Broken(Silent):
        def planned(self, graph: Graph, estimates: Estimates, workers: int) -> None:
            for folder in (place.store / "tmp").glob("session-*/"):
                folder.rename(place.root / folder.name)

    place.write("def f(*, dims, offset, seed):\n    return image(dims)\n")
    place.listener = Broken()
    with pytest.raises(StoreError):
        place.run("f")
    assert held(Store(place.store)) == []
    assert len(list((place.store / "locks").glob("*.key"))) == 1, "it had begun"


def test_the_worker_of_a_killed_parent_ends(place: Place) -> None:
    """Nobody would store its result, and the next run need not wait for it."""
    place.write(SOURCE)
    with running(place, "slow") as first:
        until((place.base / "began").exists, "the worker is at work")
        first.send_signal(signal.SIGKILL)
        first.wait()
    worker = int((place.base / "starts").read_text())
    until(lambda: not is_running(worker), "the server has ended it")
    (place.base / "go").touch()
    assert place.run("slow")["slow"].status == "ran"
    assert place.starts("starts") == 2
    assert verify(Store(place.store)) == []


def test_a_worker_whose_parent_and_server_are_killed_keeps_its_key(place: Place) -> None:
    place.write(SOURCE)
    with running(place, "slow") as first:
        until((place.base / "began").exists, "the worker is at work")
        server = psutil.Process(int((place.base / "starts").read_text())).ppid()
        os.kill(server, signal.SIGSTOP)  # it must not see the parent's end before its own
        first.send_signal(signal.SIGKILL)
        first.wait()
        os.kill(server, signal.SIGKILL)
    worker = int((place.base / "starts").read_text())
    assert is_running(worker)
    checked = []

    def look() -> None:
        checked.append((is_running(worker), place.starts("starts")))
        collect_is_harmless(place)
        (place.base / "go").touch()

    place.listener = Once(look)
    assert place.run("slow")["slow"].status == "ran", "nobody committed what the orphan made"
    assert checked == [(True, 1)], "no second builder beside the orphan"
    assert place.starts("starts") == 2
    until(lambda: not is_running(worker), "the orphan has ended")
    store = Store(place.store)
    assert verify(store) == []
    collect(store, 10**9)
    assert list((store.root / "tmp").iterdir()) == [], "what the killed parent left goes with gc"
    assert sorted(path.name for path in (store.root / "locks").iterdir()) == ["store"]


def collect_is_harmless(place: Place) -> None:
    """A lock that an orphan holds is no rubbish."""
    store = Store(place.store)
    locks = {path.name for path in (store.root / "locks").glob("*.key")}
    assert len(locks) == 1
    _sweep_temporary(store)
    assert {path.name for path in (store.root / "locks").glob("*.key")} == locks


def test_ctrl_c_keeps_what_is_finished_and_ends_every_worker(place: Place) -> None:
    place.write(SOURCE + "def quick(*, dims, offset, seed):\n    return image(dims)\n")
    with running(place, "quick", "slow") as process:
        until((place.base / "began").exists, "the slow action is at work")
        until(lambda: only_one_left(place), "the quick one is settled")
        process.send_signal(signal.SIGINT)
        found = answer(process)
        assert process.returncode == 130
    assert found["statuses"] == {"quick": "ran", "slow": "skipped"}
    worker = int((place.base / "starts").read_text())
    until(lambda: not is_running(worker), "the worker has ended")
    assert not (place.base / "finished").exists()
    assert list((place.store / "tmp").iterdir()) == []
    (place.base / "go").touch()
    again = place.run("quick", "slow")
    assert {name: one.status for name, one in again.items()} == {"quick": "cached", "slow": "ran"}


def test_a_worker_asked_for_just_before_the_end_is_not_left_behind(place: Place) -> None:
    """Ctrl-C while the server still imports: it must not begin the action afterwards."""
    place.write(SOURCE)
    scratch = place.root / "scratch"
    scratch.mkdir()
    pool = Pool(place.base, scratch, [str(place.base), *sys.path])
    (place.base / "imported_slowly.py").write_text(
        "import pathlib, time\npathlib.Path('importing').touch()\ntime.sleep(1)\n"
    )
    lock = Store(place.store).lock("ab" * 32)
    assert lock is not None
    pool.submit(scratch, ["imported_slowly"], [lock.descriptor])
    until((place.base / "importing").exists, "the server imports")
    server = pool._process
    assert server is not None
    lock.release()
    pool.stop()
    assert not is_running(server.pid)
    assert not (scratch / "log.txt").exists(), "no worker began"
    assert Store(place.store).lock("ab" * 32) is not None


def test_nothing_inherits_a_lock_of_another_action(place: Place) -> None:
    """Two workers of one server: the end of one frees its key although the other goes on."""
    place.write(SOURCE + "def quick(*, dims, offset, seed):\n    return image(dims)\n")
    with running(place, "slow", "quick"):
        until((place.base / "began").exists, "the slow action is at work")
        until(lambda: only_one_left(place), "the quick one is settled")
        store = Store(place.store)
        (quick,) = store.results.all()
        assert quick.stage == "samples"
        locks = list((store.root / "locks").glob("*.key"))
        assert len(locks) == 2
        until(lambda: len(held(store)) == 1, "the quick one's key is free")
        (place.base / "go").touch()
        until((place.base / "finished").exists, "the slow one has finished")


def only_one_left(place: Place) -> bool:
    """Whether the quick action is stored and its directory gone."""
    stored = list((place.store / "actions").rglob("*.json"))
    return bool(stored) and len(list((place.store / "tmp").glob("session-*/samples-*"))) == 1


def held(store: Store) -> list[str]:
    """The keys that somebody is building."""
    found = []
    for path in (store.root / "locks").glob("*.key"):
        lock = store.lock(path.stem)
        if lock is None:
            found.append(path.stem)
        else:
            lock.release()
    return found
