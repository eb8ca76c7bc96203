from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.errors import StoreError
from orchestrator.store import digests
from orchestrator.store.store import Store
from tests.store.files import Content, add, flip, read, write

NAMES = st.text(
    st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=8
).filter(lambda name: name not in (".", "..") and len(name.encode()) < 100)
CONTENTS: st.SearchStrategy[Content] = st.recursive(
    st.dictionaries(NAMES, st.binary(max_size=40), max_size=4),
    lambda inner: st.dictionaries(NAMES, st.binary(max_size=40) | inner, max_size=4),
    max_leaves=8,
)
PROPERTY = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@PROPERTY
@given(content=CONTENTS)
def test_a_tree_comes_back_as_it_was_stored(store: Store, content: Content) -> None:
    digest = add(store, content)
    assert read(store.trees.path(digest)) == content
    assert store.trees.check(digest, thorough=True) is None
    assert add(store, content) == digest


@PROPERTY
@given(one=CONTENTS, other=CONTENTS)
def test_trees_are_equal_exactly_when_their_contents_are(
    store: Store, one: Content, other: Content
) -> None:
    assert (add(store, one) == add(store, other)) is (one == other)


@PROPERTY
@given(content=CONTENTS)
def test_a_removed_tree_is_missing_and_can_be_stored_again(store: Store, content: Content) -> None:
    digest = add(store, content)
    store.trees.remove(digest)
    assert store.trees.check(digest) == "is not in the store"
    assert digest not in set(store.trees.all())
    assert add(store, content) == digest
    assert read(store.trees.path(digest)) == content


@PROPERTY
@given(content=CONTENTS)
def test_the_size_counts_every_file(store: Store, content: Content) -> None:
    def size(value: Any) -> int:
        return sum(map(size, value.values())) if isinstance(value, dict) else len(value)

    assert store.trees.size(add(store, content)) == size(content)


def test_a_directory_becomes_a_relative_link_to_a_tree_of_its_own(store: Store) -> None:
    weights: Content = {"weights.bin": b"w" * 100}
    first = add(store, {"model.onnx": b"a", "weights": weights})
    second = add(store, {"model.onnx": b"b", "weights": weights})
    links = [store.trees.path(tree) / "weights" for tree in (first, second)]
    assert len({link.resolve() for link in links}) == 1
    assert all(not link.readlink().is_absolute() for link in links)
    assert set(store.trees.closure(first)) == {first, add(store, weights)}
    assert store.trees.size(first) == 101
    moved = store.root.rename(store.root.parent / "moved")
    assert read(Store(moved).trees.path(second))["weights"] == weights


def test_files_and_directories_are_read_only(store: Store) -> None:
    path = store.trees.path(add(store, {"model.onnx": b"a", "weights": {"w": b"b"}}))
    assert path.stat().st_mode & 0o777 == 0o555
    for file in ("model.onnx", "weights/w"):
        assert (path / file).stat().st_mode & 0o777 == 0o444


@pytest.mark.parametrize("kind", ["link to a file", "link to a directory", "fifo"])
def test_what_is_no_plain_file_is_refused(store: Store, tmp_path: Path, kind: str) -> None:
    source = write(store.root / "tmp" / "source", {"model.onnx": b"a"})
    odd = source / "odd"
    if kind == "fifo":
        os.mkfifo(odd)
    else:
        odd.symlink_to("/etc/passwd" if kind == "link to a file" else tmp_path)
    with pytest.raises(StoreError, match="odd is neither a file nor a directory"):
        store.trees.add(source)
    assert list(store.trees.all()) == []


@pytest.mark.parametrize("damage", ["flip", "truncate", "file", "directory", "listing", "sub-tree"])
def test_damage_is_seen_and_mended_by_storing_again(store: Store, damage: str) -> None:
    content: Content = {"model.onnx": b"abcdef", "weights": {"w": b"12"}, "empty": {}}
    digest = add(store, content)
    path = store.trees.path(digest)
    match damage:
        case "flip":
            flip(path / "model.onnx", 3)
        case "truncate":
            os.truncate(path / "model.onnx", 3)
        case "file":
            path.chmod(0o755)
            (path / "model.onnx").unlink()
        case "directory":
            store.trees._retire(path)
        case "listing":
            path.with_name(f"{digest}.list").write_text("[]")
        case "sub-tree":
            store.trees.remove(add(store, {"w": b"12"}))
    assert store.trees.check(digest, thorough=True) is not None
    assert add(store, content) == digest
    assert store.trees.check(digest, thorough=True) is None
    assert read(path) == content


def test_a_changed_file_is_seen_without_reading_every_byte(store: Store) -> None:
    digest = add(store, {"model.onnx": b"abcdef"})
    assert store.trees.check(digest) is None
    flip(store.trees.path(digest) / "model.onnx")  # the change time tells
    assert store.trees.check(digest) == "model.onnx has other contents than when it was stored"


@pytest.mark.parametrize("empty", [True, False])
def test_a_listing_without_its_directory_is_a_missing_tree(store: Store, empty: bool) -> None:
    """A crash between the listing and the rename leaves this."""
    content: Content = {} if empty else {"a": b"1"}
    digest = add(store, content)
    store.trees._retire(store.trees.path(digest))
    assert store.trees.check(digest) == "is not in the store"
    assert list(store.trees.all()) == []
    assert add(store, content) == digest
    assert store.trees.check(digest, thorough=True) is None


def test_a_directory_without_its_listing_is_stored_again(store: Store) -> None:
    digest = add(store, {"a": b"1"})
    store.trees.path(digest).with_name(f"{digest}.list").unlink()
    assert store.trees.check(digest) == "is not in the store"
    assert add(store, {"a": b"1"}) == digest
    assert store.trees.check(digest, thorough=True) is None


def test_a_listing_with_a_name_of_its_own_making_is_not_believed(store: Store) -> None:
    listing = digests.canonical([{"name": "../../SCHEMA", "sha256": "0" * 64, "size": 2}])
    path = store.root / "trees" / "ab" / f"{'ab' * 32}.list"
    path.parent.mkdir(parents=True)
    path.write_text(listing)
    assert store.trees.entries("ab" * 32) is None


def test_the_digest_depends_on_nothing_but_names_and_contents(store: Store, tmp_path: Path) -> None:
    digest = add(store, {"a": b"1", "b": {"c": b"2"}})
    other = Store(tmp_path / "other")
    source = write(other.root / "tmp" / "elsewhere", {"b": {"c": b"2"}, "a": b"1"})
    (source / "a").chmod(0o600)
    os.utime(source / "a", (0, 0))
    assert other.trees.add(source) == digest
    listing = json.loads((store.trees.path(digest).with_name(f"{digest}.list")).read_text())
    assert [sorted(entry) for entry in listing] == [["name", "sha256", "size"], ["name", "tree"]]


def test_writers_of_equal_contents_never_hide_the_tree_from_a_reader(tmp_path: Path) -> None:
    stores = [Store(tmp_path / "store") for _ in range(4)]
    content: Content = {"model.onnx": b"x" * 1000, "weights": {"w": b"y" * 1000}}
    rounds = 25
    digest = ""
    for number in range(rounds):
        barrier = threading.Barrier(len(stores))
        found: list[str] = []
        problems: list[str] = []
        this: Content = {**content, "round": str(number).encode()}

        def writer(
            store: Store,
            this: Content = this,
            barrier: threading.Barrier = barrier,
            found: list[str] = found,
            problems: list[str] = problems,
        ) -> None:
            barrier.wait()
            try:
                found.append(add(store, this))
            except OSError as exc:  # reported by the main thread
                problems.append(repr(exc))
                return
            for _ in range(50):  # from here on it must be there, whoever else is still writing
                if not (store.trees.path(found[0]) / "model.onnx").exists():
                    problems.append("hidden")

        threads = [threading.Thread(target=writer, args=(store,)) for store in stores]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert problems == []
        assert len(set(found)) == 1
        digest = found[0]
        assert stores[0].trees.check(digest, thorough=True) is None
    assert len(list(stores[0].trees.all())) == rounds + 1
