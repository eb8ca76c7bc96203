"""Runs an engine ten thousand times and says what memory that cost. For the toolchain's Python.

``python endurance.py SPEC.json`` prints one JSON object. SPEC: ``worker`` (the worker's file),
``plan``, ``directory``, ``inputs`` (.npz files of different shapes), ``runs``, ``loads``. Shapes
change with every run, and every hundredth change a CUDA graph is captured and launched; then the
plan is loaded and freed ``loads`` times.
"""

from __future__ import annotations

import gc
import importlib.util
import io
import json
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    Json = dict[str, Any]

# This runs under the toolchain's Python, 3.8 or newer, and has paths as text from JSON.
# ruff: noqa: PTH123

_WARM_RUNS = 500
_GRAPH_EVERY = 100
_WARM_LOADS = 3


def worker_module(path: str) -> Any:
    """Return the worker as a module."""
    spec = importlib.util.spec_from_file_location("orchestrate_worker", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def memory(session: Any) -> Json:
    """Return this process's resident bytes, and the device's used bytes."""
    gc.collect()
    with open("/proc/self/statm", encoding="ascii") as file:
        resident = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    free, total = session.cuda.call("cudaMemGetInfo")
    return {"resident_bytes": resident, "device_bytes": int(total) - int(free)}


def growth(before: Mapping[str, int], after: Mapping[str, int]) -> Json:
    """Return how much more *after* is than *before*."""
    return {name: after[name] - value for name, value in before.items()}


def main(spec: Mapping[str, Any]) -> Json:
    """Do what the module says; return growths in bytes and how often what was done."""
    worker = worker_module(spec["worker"])
    request = {"op": "run", "plan": spec["plan"], "batches": [], "log_level": "error"}
    channel = worker.Channel(io.BytesIO(), lost=lambda: None)
    session = worker.Session(spec["directory"], request, channel)
    session.open()
    session.prepare()
    feeds = [worker.read_npz(path) for path in spec["inputs"]]
    with worker.Engine(session) as engine:
        graphs = run_often(engine, feeds, _WARM_RUNS)
        before = memory(session)
        graphs = run_often(engine, feeds, spec["runs"])
        found: Json = {"runs": growth(before, memory(session))}
    load_often(worker, session, feeds[0], _WARM_LOADS)
    before = memory(session)
    load_often(worker, session, feeds[0], spec["loads"])
    found["loads"] = growth(before, memory(session))
    return {"growth": found, "runs": spec["runs"], "loads": spec["loads"], "graphs": graphs}


def run_often(engine: Any, feeds: list[Any], runs: int) -> int:
    """Run *engine*, another shape each time; return how many CUDA graphs were captured."""
    graphs = 0
    for number in range(runs):
        feed = feeds[number % len(feeds)]
        if number % _GRAPH_EVERY == 0:
            engine.bind(feed)
            graphs += engine.capture() == ""
            engine.enqueue()
            engine.synchronize()
        engine(feed)
    return graphs


def load_often(worker: Any, session: Any, feed: Any, loads: int) -> None:
    """Load the plan, run it once and free it, *loads* times."""
    for _ in range(loads):
        with worker.Engine(session) as engine:
            engine(feed)


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as given:
        specification = json.load(given)
    print(json.dumps(main(specification)), flush=True)
