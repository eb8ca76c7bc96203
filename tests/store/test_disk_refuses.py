"""Full and read-only disks: an error with advice, and a store that is as it was."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.errors import StoreError
from orchestrator.store.collection import collect, forget, pin, verify
from orchestrator.store.store import Store, explained
from tests.store.files import add, put, result

NOBODY = 65534


def mount(*words: str) -> None:
    """Mount, or skip where this is not permitted."""
    ended = subprocess.run(["mount", *words], capture_output=True, text=True, check=False)
    if ended.returncode != 0:
        pytest.skip(f"mounting is not permitted here: {ended.stderr.strip()}")


def fill(path: Path) -> None:
    """Write to *path* until the disk is full."""
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError as exc:
            assert exc.errno == errno.ENOSPC  # noqa: PT017  # the loop is endless otherwise


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount("-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk))
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_full_disk(small_disk: Path) -> None:
    store = Store(small_disk / "store")
    first = put(store, "first", {"model.onnx": b"a" * 100_000})
    filler = small_disk / "filler"
    fill(filler)
    with pytest.raises(StoreError, match="no space left for the store") as caught:
        pin(store, {small_disk: []})
    assert "cache gc" in caught.value.hint
    assert "everything finished so far is kept" in caught.value.hint
    with pytest.raises(StoreError, match="no space left"), explained(store.root):
        store.results.put(result("second"), replace=False)
    assert store.results.get(result("second").key) is None
    assert store.lookup(first.key) == (first, "")
    assert verify(store) == []
    store.index.file(store.trees.path(first.outputs["onnx"]) / "model.onnx")  # it cannot remember
    assert collect(store, 0).freed_bytes == 100_000, "the advice works on a full disk"
    filler.unlink()
    again = put(store, "second", {"model.onnx": b"b" * 100_000})
    assert store.lookup(again.key) == (again, "")


def test_a_tree_that_does_not_fit_leaves_nothing_visible(small_disk: Path, tmp_path: Path) -> None:
    store = Store(small_disk / "store")
    source = small_disk / "store" / "tmp" / "source"
    source.mkdir()
    (source / "model.onnx").write_bytes(b"a" * 500_000)
    fill(small_disk / "filler")
    with pytest.raises(StoreError, match="no space left"), explained(store.root):
        store.trees.add(source)
    assert list(store.trees.all()) == []


def test_a_read_only_disk(tmp_path: Path) -> None:
    root = tmp_path / "store"
    made = put(Store(root), "a", {"model.onnx": b"a"})
    mount("--bind", str(root), str(root))
    try:
        mount("-o", "remount,bind,ro", str(root))
        store = Store(root)
        assert store.lookup(made.key) == (made, "")
        for operation in (
            store.begin,
            lambda: store.lock("ab" * 32),
            lambda: pin(store, {tmp_path: []}),
            lambda: forget(store, "export"),
            lambda: collect(store, 0),
        ):
            with pytest.raises(
                StoreError, match=r"cannot be written \(Read-only file system\)"
            ) as caught:
                operation()
            assert "cache.dir=DIR" in caught.value.hint
        store.end()
    finally:
        subprocess.run(["umount", "-l", str(root)], check=True)
    assert verify(Store(root)) == []


def test_a_directory_of_somebody_else() -> None:
    if os.getuid() != 0:
        pytest.skip("needs root, to become somebody whom permissions stop")
    with tempfile.TemporaryDirectory() as place:  # pytest's own is closed to others
        Path(place).chmod(0o755)
        put(Store(Path(place) / "store"), "a", {"model.onnx": b"a"})
        for name, doing in (("store", "begin()"), ("new", "root")):
            code = (
                "import os, sys; from pathlib import Path\n"
                "from orchestrator.errors import StoreError\n"
                "from orchestrator.store.store import Store\n"
                f"os.setuid({NOBODY})\n"
                f"try: Store(Path({place!r}) / {name!r}).{doing}\n"
                "except StoreError as exc: print(exc.render())\n"
            )
            ended = subprocess.run(
                [sys.executable, "-c", code], capture_output=True, text=True, check=True
            )
            assert "the store cannot be written (Permission denied)" in ended.stdout
            assert "make the directory writable, or set cache.dir=DIR" in ended.stdout


def test_a_file_larger_than_the_limit(tmp_path: Path) -> None:
    """Where nothing may be mounted, this is the nearest to a full disk."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            store = Store(tmp_path / "store")
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
            try:
                with explained(store.root):
                    store.results.put(result("big", values={"x": "y" * 5000}), replace=False)
            except StoreError as exc:
                code = 0 if "no space left" in exc.message else 2
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    store = Store(tmp_path / "store")
    assert list(store.results.all()) == []
    assert [path for path in store.root.rglob("*") if path.name.startswith(".")] == []
    assert add(store, {"a": b"1"})
