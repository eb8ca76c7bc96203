"""A writer is killed at random moments; what others see is whole every time."""

from __future__ import annotations

import itertools
import os
import random
import signal
import time
from pathlib import Path
from typing import NoReturn

import pytest

from orchestrator.store.collection import collect, pin, verify
from orchestrator.store.store import Store
from tests.store.files import Content, add, result


def write_forever(root: Path) -> NoReturn:
    store = Store(root)
    store.begin()
    for number in itertools.count():
        name = f"{number % 40}"
        lock = store.lock(name * 8)
        content: Content = {"model.onnx": name.encode() * 5000, "weights": {"w": b"w"}, "empty": {}}
        outputs = {"onnx": add(store, content)}
        made = store.results.put(result(name, outputs), replace=number % 3 == 0)
        store.results.measure(result("m" + name, stage="benchmark"))
        store.index.file(store.trees.path(outputs["onnx"]) / "model.onnx")
        pin(store, {root: outputs.values()})
        if number % 7 == 0:
            store.results.forget(made.key)
            store.trees.remove(outputs["onnx"])
        if lock is not None:
            lock.release()
    raise AssertionError("never ends")


@pytest.mark.parametrize("rounds", [12, pytest.param(50, marks=pytest.mark.slow)])
def test_a_store_whose_writer_is_killed_is_whole(tmp_path: Path, rounds: int) -> None:
    moments = random.Random(0)  # noqa: S311  # no secret
    root = tmp_path / "store"
    results = 0
    for number in range(rounds):
        pid = os.fork()
        if pid == 0:
            try:
                write_forever(root)
            finally:
                os._exit(1)
        time.sleep(moments.uniform(0, 0.15))
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL, "the writer itself failed"
        store = Store(root)
        assert verify(store) == [], f"round {number}"
        results = max(results, len(list(store.results.all())))
        store.index.close()
    assert results > 10, "the writer was killed before it had written anything"
    collect(Store(root), 0)
    assert list((root / "tmp").iterdir()) == []
    assert [path for path in root.rglob("*") if path.name.startswith(".")] == []
