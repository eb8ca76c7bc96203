from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.store.results import Result
from orchestrator.store.store import Store
from tests.store.files import add, flip, put, result
from tests.store.test_digests import JSON

RECORD: dict[str, Any] = {"modules": {"m": "1"}, "distributions": {}, "origins": {}, "files": {}}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def file_of(store: Store, made: Result) -> Path:
    return store.root / "actions" / made.key[:2] / f"{made.key}.json"


def test_a_result_comes_back_as_it_was_stored(store: Store) -> None:
    made = put(
        store, "a", {"model.onnx": b"a"}, values={"nodes": 3}, tools={"onnx": "1"}, seconds=1.5
    )
    assert store.results.get(made.key) == made
    assert store.lookup(made.key) == (made, "")


def test_the_first_writer_of_a_key_wins(store: Store) -> None:
    first = put(store, "a", {"model.onnx": b"first"})
    second = put(store, "a", {"model.onnx": b"second"})
    assert second == first == store.results.get(first.key)


def test_a_rebuild_replaces(store: Store) -> None:
    first = put(store, "a", {"model.onnx": b"first"})
    new = result("a", {"onnx": add(store, {"model.onnx": b"second"})})
    assert store.results.put(new, replace=True) == new
    assert store.results.get(first.key) == new


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(field=st.sampled_from(["schema", "key", *Result.__dataclass_fields__]), value=JSON)
def test_a_foreign_value_is_a_miss_or_the_result(store: Store, field: str, value: Any) -> None:
    """Whatever a file holds, a reader gets a usable result or none, and never an exception."""
    made = put(store, "a", {"model.onnx": b"a"})
    path = file_of(store, made)
    content = json.loads(path.read_bytes())
    content[field] = value
    path.write_text(json.dumps(content))
    found, _ = store.lookup(made.key)
    assert found is None or (found.key == made.key and found.stage == content["stage"])
    assert (store.results.get(made.key) is None) is (path in set(store.results.damaged()))
    path.unlink()


@pytest.mark.parametrize("field", [*Result.__dataclass_fields__, "schema"])
def test_a_field_of_another_type_is_a_miss(store: Store, field: str) -> None:
    made = put(store, "a", {"model.onnx": b"a"})
    content = json.loads(file_of(store, made).read_bytes())
    content[field] = [None]
    file_of(store, made).write_text(json.dumps(content))
    assert store.lookup(made.key) == (None, "")


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b"3", b"\xff\xfe", b'{"schema": 1}'])
def test_a_damaged_file_is_a_miss_that_can_be_written_again(store: Store, data: bytes) -> None:
    made = put(store, "a", {"model.onnx": b"a"})
    file_of(store, made).write_bytes(data)
    assert store.results.get(made.key) is None
    assert list(store.results.damaged()) == [file_of(store, made)]
    assert store.results.put(made, replace=False) == made
    assert store.results.get(made.key) == made


def test_a_newer_schema_and_another_key_are_misses(store: Store) -> None:
    made, other = put(store, "a", {"x": b"a"}), result("b")
    content = json.loads(file_of(store, made).read_bytes())
    target = file_of(store, other)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(content))
    assert store.results.get(other.key) is None
    file_of(store, made).write_text(json.dumps(content | {"schema": 2}))
    assert store.results.get(made.key) is None


def test_a_result_whose_tree_is_damaged_is_a_miss_with_a_warning(store: Store) -> None:
    made = put(store, "a", {"model.onnx": b"abc"})
    flip(store.trees.path(made.outputs["onnx"]) / "model.onnx")
    found, warning = store.lookup(made.key)
    assert found is None
    assert warning == (
        "the stored export 'onnx' is damaged (model.onnx has other contents than when it was "
        "stored): building it again"
    )


@given(data=st.binary(max_size=30) | JSON.map(lambda value: json.dumps(value).encode()))
@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_damaged_observations_are_none(store: Store, data: bytes) -> None:
    path = store.root / "observed" / "ab" / f"{'ab' * 32}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    assert store.results.observations("ab" * 32) == []


@pytest.mark.parametrize(
    "records", [None, {}, [None], [{}], [{"modules": {}}], [RECORD | {"files": {"a": None}}]]
)
def test_records_of_another_shape_are_left_out(store: Store, records: Any) -> None:
    store.results.observe("ab" * 32, RECORD)
    path = store.root / "observed" / "ab" / f"{'ab' * 32}.json"
    path.write_text(json.dumps({"schema": 1, "records": records}))
    assert store.results.observations("ab" * 32) == []


def test_the_newest_observations_are_kept_once(store: Store) -> None:
    records = [RECORD | {"modules": {"m": str(number)}} for number in range(20)]
    for record in [*records, records[10]]:
        store.results.observe("ab" * 32, record)
    found = store.results.observations("ab" * 32)
    assert found[0] == records[10]
    assert [int(record["modules"]["m"]) for record in found[1:]] == [
        *range(19, 10, -1),
        *range(9, 3, -1),
    ]


def test_measurements_are_appended_and_the_newest_readable_one_counts(store: Store) -> None:
    for number in range(3):
        store.results.measure(result("m", stage="benchmark", values={"p50_ms": number}))
    key = result("m").key
    newest = store.results.newest_measurement(key)
    assert newest is not None
    assert newest.values == {"p50_ms": 2}
    *_, last = sorted((store.root / "measurements" / key[:2] / key).iterdir())
    last.write_text("{")
    newest = store.results.newest_measurement(key)
    assert newest is not None
    assert newest.values == {"p50_ms": 1}
    assert len(list(store.results.all())) == 2
    assert store.results.get(key) is None
