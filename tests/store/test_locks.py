from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from orchestrator.store.locks import take, try_lock
from orchestrator.store.store import Store

# Takes the lock, hands its descriptor to a child that waits for its standard input, and says so.
HOLDER = """
import subprocess, sys, time
from pathlib import Path
from orchestrator.store.locks import take
lock = take(Path(sys.argv[1]))
child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=0, pass_fds=[lock.descriptor])
print(child.pid, flush=True)
time.sleep(600)
"""


def test_a_lock_excludes_others_until_it_is_released(tmp_path: Path) -> None:
    lock = take(tmp_path / "locks" / "a")
    assert try_lock(tmp_path / "locks" / "a") is None
    lock.release()
    lock.release()  # twice is harmless
    again = try_lock(tmp_path / "locks" / "a")
    assert again is not None
    again.release()


def test_shared_locks_exclude_only_an_exclusive_one(tmp_path: Path) -> None:
    first = take(tmp_path / "a", shared=True)
    second = try_lock(tmp_path / "a", shared=True)
    assert second is not None
    first.release()
    assert try_lock(tmp_path / "a") is None
    second.release()
    last = try_lock(tmp_path / "a")
    assert last is not None
    last.release()


def test_a_lock_handed_to_another_process_survives_the_one_that_took_it(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdin is not None
        child = int(parent.stdout.readline())
        watch = os.pidfd_open(child)
        assert try_lock(path) is None
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait()
        assert try_lock(path) is None, "the child still works on it"
        parent.stdin.write("\n")
        parent.stdin.flush()
        import select

        select.select([watch], [], [])  # readable when the child has ended
        os.close(watch)
    lock = try_lock(path)
    assert lock is not None
    lock.release()


def test_a_lock_is_not_inherited_by_accident(tmp_path: Path) -> None:
    lock = take(tmp_path / "a")
    with subprocess.Popen(
        [sys.executable, "-c", "print(flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        close_fds=False,
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        lock.release()
        again = try_lock(tmp_path / "a")
        assert again is not None
        again.release()
        child.communicate(b"\n")


def test_a_key_is_locked_once(tmp_path: Path) -> None:
    one, other = Store(tmp_path), Store(tmp_path)
    lock = one.lock("ab" * 32)
    assert lock is not None
    assert other.lock("ab" * 32) is None
    assert other.lock("cd" * 32) is not None
    lock.release()
    assert other.lock("ab" * 32) is not None
