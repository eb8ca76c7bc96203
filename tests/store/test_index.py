from __future__ import annotations

import contextlib
import os
import pickle  # noqa: TID251  # the attack itself
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diskcache
import pytest

from orchestrator.store import digests
from orchestrator.store.index import Index, StrictDisk

OLD_NS = 1_000_000_000_123_456_789


class Payload:
    """Makes the file *marker* when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.marker,)


@pytest.fixture
def index(tmp_path: Path) -> Index:
    return Index(tmp_path / "index")


def counted(index: Index, path: Path) -> tuple[str, int]:
    """Return what the index says of *path*, and how often it read the file."""
    reads = 0

    def compute(path: Path) -> str:
        nonlocal reads
        reads += 1
        return digests.of_file(path)

    return index._digest("sha256", path, compute), reads


def settled(path: Path, data: bytes) -> Path:
    """Write a file and wait until its change time is clearly past."""
    path.write_bytes(data)
    os.utime(path, ns=(OLD_NS, OLD_NS))
    while time.time_ns() - path.stat().st_ctime_ns < 60_000_000:
        time.sleep(0.01)
    return path


def execute(index_directory: Path, statement: str, *values: Any) -> None:
    with contextlib.closing(sqlite3.connect(index_directory / "cache.db")) as database:
        database.execute(statement, values)
        database.commit()


def test_an_unchanged_file_is_read_once(index: Index, tmp_path: Path) -> None:
    path = settled(tmp_path / "data", b"one")
    expected = digests.of_bytes(b"one")
    assert counted(index, path) == (expected, 1)
    assert counted(index, path) == (expected, 0)
    index.close()
    assert counted(Index(tmp_path / "index"), path) == (expected, 0)


def test_a_file_changed_a_moment_ago_is_not_remembered(index: Index, tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(b"one")
    future = time.time_ns() + 3_600_000_000_000  # also what a clock that was set back leaves
    os.utime(path, ns=(future, future))
    assert counted(index, path)[1] == 1
    assert counted(index, path)[1] == 1


def test_whole_seconds_are_a_coarse_clock(index: Index, tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(b"one")
    second = time.time_ns() // 1_000_000_000 * 1_000_000_000
    os.utime(path, ns=(second, second))
    assert counted(index, path)[1] == 1
    assert counted(index, path)[1] == 1


def test_the_same_size_and_time_is_not_the_same_file(index: Index, tmp_path: Path) -> None:
    """Restored with its old time: size, mtime and inode agree, the change time does not."""
    path = settled(tmp_path / "data", b"one")
    counted(index, path)
    settled(path, b"two")
    assert counted(index, path) == (digests.of_bytes(b"two"), 1)


def test_a_file_replaced_by_another_is_read(index: Index, tmp_path: Path) -> None:
    path = settled(tmp_path / "data", b"one")
    counted(index, path)
    settled(tmp_path / "new", b"two").replace(path)
    assert counted(index, path)[0] == digests.of_bytes(b"two")


def test_a_directory_is_its_names_and_contents(index: Index, tmp_path: Path) -> None:
    def tree(name: str, files: dict[str, str]) -> str:
        for file, text in files.items():
            path = tmp_path / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return index.directory(tmp_path / name)

    first = tree("a", {"x/1": "one", "2": "two"})
    assert tree("b", {"2": "two", "x/1": "one"}) == first
    assert tree("c", {"x/1": "two", "2": "one"}) != first
    assert tree("d", {"x/3": "one", "2": "two"}) != first


@pytest.mark.parametrize("column", ["value", "key"])
def test_a_pickled_row_is_refused_and_never_runs(tmp_path: Path, column: str) -> None:
    """CVE-2025-69872: whoever can write the database could run code in whoever reads it."""
    directory, marker = tmp_path / "index", tmp_path / "marker"
    path = settled(tmp_path / "data", b"one")
    index = Index(directory)
    counted(index, path)
    index.close()
    attack = pickle.dumps(Payload(marker))
    if column == "value":
        execute(directory, "UPDATE Cache SET mode = 4, value = ?", sqlite3.Binary(attack))
    else:
        execute(directory, "UPDATE Cache SET raw = 0, key = ?", sqlite3.Binary(attack))
    assert counted(Index(directory), path)[0] == digests.of_bytes(b"one")
    with contextlib.closing(
        diskcache.Cache(str(directory), disk=StrictDisk, eviction_policy="none")
    ) as cache:
        with contextlib.suppress(ValueError):
            list(cache)
        with contextlib.suppress(ValueError):
            cache.peekitem()
        with contextlib.suppress(ValueError):
            cache.get(f"sha256:{path}")
    assert not marker.exists()


@pytest.mark.parametrize("column", ["value", "key"])
def test_the_attack_itself_works_on_plain_diskcache(tmp_path: Path, column: str) -> None:
    """Otherwise the test above could not fail."""
    marker = tmp_path / "marker"
    attack = pickle.dumps(Payload(marker))
    with contextlib.closing(diskcache.Cache(str(tmp_path / "index"))) as cache:
        cache.set("k", "v")
        if column == "value":
            execute(
                tmp_path / "index", "UPDATE Cache SET mode = 4, value = ?", sqlite3.Binary(attack)
            )
            cache.get("k")
        else:
            execute(tmp_path / "index", "UPDATE Cache SET raw = 0, key = ?", sqlite3.Binary(attack))
            list(cache)
    assert marker.exists()


@pytest.mark.parametrize("value", [["a"], {"a": 1}, None, True, ("a",)])
def test_only_plain_values_are_stored(tmp_path: Path, value: object) -> None:
    disk = StrictDisk(str(tmp_path))
    with pytest.raises(TypeError, match="index values are text"):
        disk.store(value, read=False)
    with pytest.raises(TypeError, match="index keys are text"):
        disk.put(value)


@pytest.mark.parametrize("name", ["cache.db", "cache.db-wal", "cache.db-shm"])
@pytest.mark.parametrize("data", [b"", b"no database " * 400, os.urandom(8192)])
def test_a_damaged_database_costs_nothing_but_time(tmp_path: Path, name: str, data: bytes) -> None:
    directory, path = tmp_path / "index", settled(tmp_path / "data", b"one")
    first = Index(directory)
    counted(first, path)
    first.close()
    (directory / name).write_bytes(data)
    for reads in ((0, 1), (0,)):  # the second time it is remembered again
        index = Index(directory)
        digest, count = counted(index, path)
        assert digest == digests.of_bytes(b"one")
        assert count in reads
        index.close()


def test_pages_damaged_behind_the_header_are_replaced(tmp_path: Path) -> None:
    directory, path = tmp_path / "index", settled(tmp_path / "data", b"one")
    first = Index(directory)
    for number in range(2000):
        first.set(f"filler {number}", "x" * 100)
    counted(first, path)
    first.close()
    execute(directory, "PRAGMA wal_checkpoint(TRUNCATE)")
    file = directory / "cache.db"
    data = bytearray(file.read_bytes())
    data[3 * 4096 :] = os.urandom(len(data) - 3 * 4096)
    file.write_bytes(data)
    for _ in range(2):
        index = Index(directory)
        assert counted(index, path)[0] == digests.of_bytes(b"one")
        index.set("kept", "now")
        index.close()
    index = Index(directory)
    assert counted(index, path) == (digests.of_bytes(b"one"), 0)
    assert index.get("kept") == "now"


def test_a_database_of_another_shape_is_replaced(tmp_path: Path) -> None:
    directory = tmp_path / "index"
    directory.mkdir()
    execute(directory, "CREATE TABLE Cache (other TEXT)")
    for _ in range(2):
        index = Index(directory)
        index.set("a", "b")
        index.close()
    assert Index(directory).get("a") == "b"


def test_a_locked_database_is_left_alone(tmp_path: Path) -> None:
    directory, path = tmp_path / "index", settled(tmp_path / "data", b"one")
    impatient = Index(directory, timeout_s=0.05)
    impatient.set("kept", "yes")
    inode = (directory / "cache.db").stat().st_ino
    with contextlib.closing(sqlite3.connect(directory / "cache.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert counted(impatient, path)[0] == digests.of_bytes(b"one")
        assert impatient.get("kept") == "yes"
    assert (directory / "cache.db").stat().st_ino == inode
    assert Index(directory).get("kept") == "yes"


def test_what_is_kept_for_a_time_is_dropped(index: Index, tmp_path: Path) -> None:
    index.set("over", "x", keep_s=-1)
    index.set("long", "y", keep_s=3600)
    index.set("always", "z")
    assert [index.get(key) for key in ("over", "long", "always")] == [None, "y", "z"]

    index.drop_expired()
    index.close()

    with contextlib.closing(sqlite3.connect(tmp_path / "index" / "cache.db")) as database:
        kept = {key for (key,) in database.execute("SELECT key FROM Cache")}
    assert kept == {"long", "always"}
