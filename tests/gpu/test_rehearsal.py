"""The check of a GPU machine, rehearsed over the stand-in: its own mistakes show here."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.backends.tensorrt import standin
from tests.gpu.check_orchestrate import MISTAKES, main
from tests.gpu.rows import Row, read_rows

pytestmark = pytest.mark.slow


def rehearse(work: Path, *names: str, fault: str = "") -> Mapping[str, Row]:
    """Do steps over the stand-in; return their rows."""
    words = standin.command(**({"fault": fault} if fault else {}))
    arguments = ["--work", str(work), "--only", ",".join(names), "--patience-s", "1"]
    arguments += ["--large", "digits"]
    quick = ["--override", "benchmark.measure_ms=1", "--override", "benchmark.warmup_ms=1"]
    main([*arguments, *quick, "--override", "benchmark.min_runs=3", "--toolchain", *words])
    return read_rows(work / "rows.jsonl")


def assert_expected(rows: Mapping[str, Row], count: int) -> None:
    assert {name: row for name, row in rows.items() if not row["ok"]} == {}
    assert len(rows) == count


def test_sweeps_and_changes(tmp_path: Path) -> None:
    rows = rehearse(tmp_path, "sweep digits", "again digits", "change", "profiles")
    assert_expected(rows, 7)
    assert [one["precision"] for one in rows["sweep digits"]["variants"]] == [
        "fp32", "tf32", "fp16", "int8", "int8",
    ]  # fmt: skip
    assert str(tmp_path) not in (tmp_path / "rows.jsonl").read_text()


def test_mistakes(tmp_path: Path) -> None:
    # Not here: what needs a GPU's memory, and devices that can be hidden.
    wanted = ("plan", "flipped", "plugin", "profile", "newer", "no TensorRT", "nothing lost")
    rows = rehearse(tmp_path, *(name for name in MISTAKES if any(word in name for word in wanted)))
    assert_expected(rows, 11)
    assert rows["mistake: no TensorRT"]["code"] == 2


def test_processes(tmp_path: Path) -> None:
    assert_expected(rehearse(tmp_path, "processes", fault="slow:3"), 4)


def test_two_gpus_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uuids = [f"GPU-{uuid.uuid4()}" for _ in range(2)]
    for count in (1, 2):
        monkeypatch.setenv("STANDIN_DEVICE", json.dumps([{"uuid": one} for one in uuids[:count]]))
        rows = rehearse(tmp_path / str(count), "two GPUs", fault="slow:3")
        assert_expected(rows, 1)
        assert ("skipped" in rows["devices: two GPUs at once"]) == (count == 1)


def test_an_engine_that_is_not_what_was_asked_for_is_noticed(tmp_path: Path) -> None:
    rows = rehearse(tmp_path, "sweep digits", "again digits", fault="silent_tf32")
    assert not rows["sweep digits"]["ok"]
    wrong = rows["sweep digits"]["shown"]
    assert "fp32 failed refuted" in wrong
    assert "tf32 failed" not in wrong
    assert rows["again digits"]["ok"]
