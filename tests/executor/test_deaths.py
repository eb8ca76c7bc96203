"""Each way in which a worker can end is told apart, and none of them hurts the store."""

from __future__ import annotations

import sys

import pytest

from orchestrator.errors import StageError, WorkerLostError
from orchestrator.executor.outcome import Finished
from orchestrator.store.collection import verify
from orchestrator.store.store import Store
from tests.executor.processes import is_running, until
from tests.executor.runs import Place

SOURCE = """
def fine(*, dims, offset, seed):
    print("a line in the log")
    return image(dims)
def exits(*, dims, offset, seed):
    sys.exit(3)
def leaves(*, dims, offset, seed):
    os._exit(5)
def segfaults(*, dims, offset, seed):
    ctypes.string_at(0)
def aborts(*, dims, offset, seed):
    os.abort()
def is_killed(*, dims, offset, seed):
    os.kill(os.getpid(), signal.SIGKILL)
def is_ended(*, dims, offset, seed):
    os.kill(os.getpid(), signal.SIGTERM)
def is_interrupted(*, dims, offset, seed):
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(600)
def raises(*, dims, offset, seed):
    print("before")
    return deeper(dims)
def deeper(dims):
    raise LookupError("no such word")
def allocates(*, dims, offset, seed):
    resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
    return image(dims, np.zeros(1 << 40)[0])
def recurses(*, dims, offset, seed):
    return recurses(dims=dims, offset=offset, seed=seed)
def fills(*, dims, offset, seed):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
    return image(dims)
"""
LINE = 6 + 1 + SOURCE.splitlines().index('    raise LookupError("no such word")')


@pytest.fixture
def ended(place: Place) -> dict[str, Finished]:
    place.write(SOURCE)
    names = [line[4:].partition("(")[0] for line in SOURCE.splitlines() if "*, dims" in line]
    found = place.run(*(name for name in names if name.isidentifier() and "return" not in name))
    store = Store(place.store)
    assert verify(store) == []
    assert list((store.root / "tmp").iterdir()) == [], "nothing is left behind"
    return found


def test_each_death_is_told_apart(ended: dict[str, Finished]) -> None:
    fine = ended.pop("fine")
    assert (fine.status, fine.error) == ("ran", None), "one failure never stops the others"
    assert {one.status for one in ended.values()} == {"failed"}
    texts = {name: str(one.error) for name, one in ended.items()}
    assert "called sys.exit(3)" in texts["exits"]
    assert "ended with code 5 and left no result" in texts["leaves"]
    assert "crashed in native code (SIGSEGV)" in texts["segfaults"]
    assert "aborted in native code (SIGABRT)" in texts["aborts"]
    assert "was killed by somebody (SIGKILL)" in texts["is_killed"]
    assert "was ended by a signal (SIGTERM)" in texts["is_ended"]
    assert "was ended by a signal (SIGINT)" in texts["is_interrupted"]
    assert "LookupError: no such word" in texts["raises"]
    assert f"(user.py:{LINE})" in texts["raises"]
    assert "'samples' ran out of memory" in texts["allocates"]
    assert "RecursionError" in texts["recurses"]
    assert (
        "no space left while 'samples' ran" in texts["fills"] or "ended with code" in texts["fills"]
    )
    assert all("\n  → " in text for name, text in texts.items() if name != "exits"), texts
    lost = {name for name, one in ended.items() if isinstance(one.error, WorkerLostError)}
    signals = {"segfaults", "aborts", "is_killed", "is_ended", "is_interrupted"}
    assert lost == {*signals, "leaves", "allocates", "fills"}
    assert isinstance(ended["raises"].error, StageError)
    assert "before\n" in ended["raises"].log
    assert "Traceback" in ended["raises"].log
    assert "in deeper" in ended["raises"].log


def test_a_failed_action_is_tried_again_and_can_succeed(place: Place) -> None:
    place.write(
        "def f(*, dims, offset, seed):\n"
        "    if not (HERE / 'mended').is_dir(): os._exit(1)\n"
        "    return image(dims)\n"
    )
    assert place.run("f")["f"].status == "failed"
    assert verify(Store(place.store)) == []
    (place.base / "mended").mkdir()
    assert place.run("f")["f"].status == "ran"
    assert place.run("f")["f"].status == "cached"


def test_what_takes_too_long_is_ended_with_all_it_started(place: Place) -> None:
    place.write(
        "import subprocess\n"
        "def f(*, dims, offset, seed):\n"
        "    child = subprocess.Popen(['sleep', '600'])\n"
        "    (HERE / 'pid').write_text(str(child.pid))\n"
        "    time.sleep(600)\n"
    )
    found = place.run("f", timeout_s=1.5)["f"]
    assert (
        str(found.error)
        == "samples: took longer than 1.5 s and was ended\n  → raise executor.timeout_s"
    )
    pid = int((place.base / "pid").read_text())
    until(lambda: not is_running(pid), "the child has ended")
    assert verify(Store(place.store)) == []


SLOW_IMPORT = """
import sys, time
time.sleep(0.6)
sys.path[:] = [path for path in sys.path if path != {folder!r}]
del sys.modules["numpy"]
import numpy
"""


def test_time_counts_from_the_start_of_the_worker(place: Place) -> None:
    """What the server still imports when the time is over begins later, and is ended then."""
    place.write(
        "def f(*, dims, offset, seed):\n"
        "    (HERE / 'began').touch()\n"
        "    time.sleep(5)\n"
        "    (HERE / 'finished').touch()\n"
        "    return image(dims)\n"
    )
    folder = place.root / "first"
    folder.mkdir()
    (folder / "numpy.py").write_text(SLOW_IMPORT.format(folder=str(folder)))
    found = place.run("f", timeout_s=0.5, search_path=[str(folder)])["f"]
    assert "took longer than 0.5 s" in str(found.error)
    assert (place.base / "began").exists()
    assert not (place.base / "finished").exists()


def test_a_limit_of_years_is_a_limit(place: Place) -> None:
    place.write("def f(*, dims, offset, seed):\n    return image(dims)\n")
    assert place.run("f", timeout_s=1e9)["f"].status == "ran"


def test_the_log_is_an_artifact(place: Place) -> None:
    place.write(
        "def f(*, dims, offset, seed):\n"
        "    print('hello'); os.system('echo below')\n"
        "    return image(dims)\n"
    )
    result = place.run("f")["f"].result
    assert result is not None
    text = (Store(place.store).trees.path(result.log) / "log.txt").read_text()
    assert sorted(set(text.split())) == ["below", "hello"]


def test_a_server_that_cannot_be_started_is_one_clear_error(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.write("def f(*, dims, offset, seed):\n    return image(dims)\n")
    monkeypatch.setattr(sys, "executable", str(place.root / "python"))
    found = place.run("f")["f"]
    assert isinstance(found.error, WorkerLostError)
    message = "the worker server cannot be started: No such file or directory"
    assert found.error.message == message


def test_a_server_that_is_killed_is_one_clear_error_and_replaced(place: Place) -> None:
    place.write(
        "def f(*, dims, offset, seed):\n"
        "    os.kill(os.getppid(), signal.SIGKILL)\n"
        "    time.sleep(600)\n"
        "def g(*, dims, offset, seed):\n"
        "    return image(dims)\n"
    )
    found = place.run("f", "g", workers=1)
    assert isinstance(found["f"].error, WorkerLostError)
    assert "the worker server ended unexpectedly" in found["f"].error.message
    assert found["g"].status == "ran"
    assert verify(Store(place.store)) == []
    assert list((place.store / "tmp").iterdir()) == []
