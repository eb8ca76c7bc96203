from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from orchestrator.errors import StoreError
from orchestrator.store.collection import collect, forget, pin, pins, stats, touch, verify
from orchestrator.store.results import Result
from orchestrator.store.store import Store
from tests.store.files import Content, add, flip, put, result

KIB = 1024


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def aged(store: Store, *results: Result) -> None:
    """Make the results the older the earlier they are named."""
    for number, one in enumerate(results):
        path = store.root / "actions" / one.key[:2] / f"{one.key}.json"
        os.utime(path, (1_000_000 + number, 1_000_000 + number))


def four(store: Store) -> list[Result]:
    """Four results of 1 KiB each, the first the least recently used."""
    found = [put(store, name, {"model.onnx": name.encode() * KIB}) for name in "abcd"]
    aged(store, *found)
    return found


def alive(store: Store, results: list[Result]) -> str:
    return "".join(one.material["name"] for one in results if store.lookup(one.key)[0] is not None)


def test_the_least_recently_used_go_first(store: Store) -> None:
    results = four(store)
    touch(store, [results[0].key])
    collected = collect(store, 2 * KIB)
    assert alive(store, results) == "ad"
    assert (collected.removed_results, collected.removed_trees) == (2, 2)
    assert (collected.freed_bytes, collected.kept_bytes) == (2 * KIB, 2 * KIB)
    assert verify(store) == []


def test_within_the_budget_nothing_goes(store: Store) -> None:
    results = four(store)
    assert collect(store, 4 * KIB).removed_results == 0
    assert alive(store, results) == "abcd"


def test_what_nothing_refers_to_goes_first(store: Store) -> None:
    results = four(store)
    orphan = add(store, {"model.onnx": b"z" * KIB, "weights": {"w": b"w"}})
    collected = collect(store, 10**9)
    assert collected.removed_trees == 2
    assert store.trees.check(orphan) is not None
    assert alive(store, results) == "abcd"


def test_a_tree_that_another_result_needs_stays(store: Store) -> None:
    weights: Content = {"w": b"w" * KIB}
    old = put(store, "old", {"model.onnx": b"1", "weights": weights})
    new = put(store, "new", {"model.onnx": b"2", "weights": weights})
    aged(store, old, new)
    collect(store, KIB + 1)
    assert alive(store, [old, new]) == "new"
    assert verify(store) == []


def test_pinned_trees_stay_whatever_the_budget(store: Store, tmp_path: Path) -> None:
    results = four(store)
    experiment = tmp_path / "experiment"
    experiment.mkdir()
    pin(store, {experiment: [results[0].outputs["onnx"]]})
    collected = collect(store, 0)
    assert alive(store, results) == "a", "nor is the result forgotten: that would free nothing"
    assert (collected.kept_bytes, collected.removed_results) == (KIB, 3)


def test_sub_trees_of_a_pinned_tree_are_pinned(store: Store, tmp_path: Path) -> None:
    made = put(store, "a", {"model.onnx": b"1", "weights": {"w": b"w" * KIB}})
    pin(store, {tmp_path: [made.outputs["onnx"]]})
    collect(store, 0)
    assert store.trees.check(made.outputs["onnx"], thorough=True) is None


def test_the_pin_of_a_deleted_directory_is_dropped(store: Store, tmp_path: Path) -> None:
    results = four(store)
    experiment = tmp_path / "experiment"
    experiment.mkdir()
    pin(store, {experiment: [results[0].outputs["onnx"]]})
    shutil.rmtree(experiment)
    assert pins(store).trees == set()
    collect(store, 0)
    assert alive(store, results) == ""
    assert list((store.root / "pins").iterdir()) == []


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"directory": "/"}', '{"directory": "/", "trees": [1]}',
     '{"directory": "/", "trees": "ab"}', '{"directory": "/", "trees": ["../.."]}',
     '{"directory": 3, "trees": []}'],
)  # fmt: skip
def test_a_pin_that_cannot_be_read_keeps_everything(store: Store, text: str) -> None:
    results = four(store)
    orphan = add(store, {"model.onnx": b"orphan"})
    path = store.root / "pins" / "unreadable.json"
    path.write_text(text)
    collected = collect(store, 0)
    assert alive(store, results) == "abcd"
    assert store.trees.check(orphan) is None
    assert collected.unreadable_pins == [str(path)]
    assert path.exists()


def test_the_pin_of_a_directory_that_may_not_be_looked_at_is_kept(
    store: Store, tmp_path: Path
) -> None:
    """A directory below a file gives ENOTDIR, one on an unmounted or private disk EACCES."""
    results = four(store)
    (tmp_path / "file").touch()
    pin(store, {tmp_path / "file" / "experiment": [results[0].outputs["onnx"]]})
    collected = collect(store, 0)
    assert store.trees.check(results[0].outputs["onnx"]) is None
    assert alive(store, results) == "a"
    assert collected.unreadable_pins == []


def test_an_experiment_in_the_place_of_one_of_a_sweep_leaves_the_pins_of_the_others(
    store: Store, tmp_path: Path
) -> None:
    results = four(store)
    places = [tmp_path / "sweep" / name for name in "ab"]
    for place in places:
        place.mkdir(parents=True)
    trees = [one.outputs["onnx"] for one in results]
    pin(store, {place: [tree] for place, tree in zip(places, trees[:2], strict=True)})

    pin(store, {places[0]: [trees[2]]})
    collect(store, 0)

    assert alive(store, results) == "abc"


def test_it_is_refused_while_another_run_uses_the_store(store: Store) -> None:
    results = four(store)
    other = Store(store.root)
    other.begin()
    with pytest.raises(StoreError, match="another run is using the store"):
        collect(store, 0)
    assert alive(store, results) == "abcd"
    other.end()
    collect(store, 0)
    assert alive(store, results) == ""


def test_what_killed_sessions_left_goes_and_a_live_one_stays(store: Store) -> None:
    scratch = store.root / "tmp"
    (scratch / "session-dead").mkdir()
    (scratch / "session-dead.lock").touch()
    (scratch / "tree-dead" / "sub").mkdir(parents=True)
    (store.root / "locks" / "dead.key").touch()
    held = store.lock("held")
    collect(store, 0)
    assert held is not None
    assert list(scratch.iterdir()) == []
    assert sorted(path.name for path in (store.root / "locks").iterdir()) == ["held.key", "store"]


def test_measurements_that_share_a_key_and_a_log(store: Store) -> None:
    shared = add(store, {"log.txt": b"the same text"})
    for number in range(3):
        log = add(store, {"log.txt": str(number).encode()})
        store.results.measure(result("m", stage="benchmark", log=log))
        store.results.measure(result("m", stage="benchmark", log=shared))
    other = store.results.put(result("other", log=shared), replace=False)
    collect(store, 10**9)
    assert all(store.trees.check(one.log) is None for one in store.results.all())
    aged(store, other)
    collect(store, 0)
    assert list(store.results.all()) == []
    assert list(store.trees.all()) == []


@pytest.mark.parametrize("damage", ["flip", "truncate", "missing", "tree", "result"])
def test_verify_names_what_is_damaged(store: Store, damage: str) -> None:
    results = four(store)
    assert verify(store) == []
    tree = results[1].outputs["onnx"]
    file = store.trees.path(tree) / "model.onnx"
    for one in results:  # remembered digests must not hide damage
        store.lookup(one.key)
    match damage:
        case "flip":
            flip(file, 500)
            expected = [f"tree {tree}: model.onnx has other contents than when it was stored"]
        case "truncate":
            os.truncate(file, 1000)
            expected = [f"tree {tree}: model.onnx has 1000 bytes instead of 1024"]
        case "missing":
            file.parent.chmod(0o755)
            file.unlink()
            expected = [f"tree {tree}: model.onnx cannot be read (No such file or directory)"]
        case "tree":
            store.trees.remove(tree)
            expected = [f"export {results[1].key}: its output 'onnx' is missing"]
        case _:
            path = store.root / "actions" / results[1].key[:2] / f"{results[1].key}.json"
            path.write_text("{")
            expected = [f"result {path.name}: cannot be read"]
    assert verify(store) == expected
    assert alive(store, results) == "acd"


def test_forget_takes_a_stage_or_a_key(store: Store) -> None:
    results = four(store)
    other = store.results.put(result("other", stage="judge"), replace=False)
    assert forget(store, "judge") == [other]
    assert forget(store, results[0].key[:8]) == [results[0]]
    assert alive(store, results) == "bcd"
    with pytest.raises(StoreError, match="no result matches") as caught:
        forget(store, results[1].key[:7])
    assert "give a stage (export)" in caught.value.hint
    assert alive(store, results) == "bcd"
    forget(store, "export")
    assert alive(store, results) == ""


def test_statistics_count_what_is_there(store: Store, tmp_path: Path) -> None:
    results = four(store)
    store.results.measure(result("m", stage="benchmark"))
    pin(store, {tmp_path: [results[0].outputs["onnx"]]})
    found = stats(store)
    assert (found.results, found.measurements, found.trees) == (4, 1, 4)
    assert (found.bytes, found.pinned_trees) == (4 * KIB, 1)
    assert found.stages == {"benchmark": 1, "export": 4}


def test_a_store_of_a_newer_schema_is_refused(store: Store) -> None:
    (store.root / "SCHEMA").write_text("2\n")
    with pytest.raises(StoreError, match="the store has schema 2, this version reads 1"):
        Store(store.root)


def test_a_pin_names_its_directory(store: Store, tmp_path: Path) -> None:
    pin(store, {tmp_path: ["ab" * 32, "ab" * 32]})
    (path,) = (store.root / "pins").iterdir()
    assert json.loads(path.read_text()) == {str(tmp_path): ["ab" * 32]}
