"""What starts first, and how much memory what runs may need together."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.executor import cgroups
from orchestrator.executor.cgroups import MemoryGroup, groups
from orchestrator.executor.costs import Cost, Costs
from orchestrator.executor.durations import Durations
from orchestrator.executor.memory import Memory, available_bytes
from orchestrator.executor.outcome import Outcome
from orchestrator.plan.graph import Action, File, Graph, Step, Variant
from orchestrator.plan.secrets import Secrets
from orchestrator.stages.catalogue import NAMES
from orchestrator.stages.catalogue import stage as find_stage
from orchestrator.store.index import Index
from orchestrator.store.store import Store
from tests.executor.processes import PATIENCE_S
from tests.executor.runs import CONFIG, Place, Silent, params

GIB = 1 << 30
NOTES = """
def one(*, dims, offset, seed):
    with open(HERE / "order", "a") as file: print("one", file=file)
    return image(dims)
def two(*, dims, offset, seed):
    with open(HERE / "order", "a") as file: print("two", file=file)
    return image(dims, 1.0)
"""


def outcome(place: Place, *functions: str, workers: int = 2, **more: object) -> Outcome:
    return place.outcome(functions, None, (), workers, sys.path, **more)[0]  # type: ignore[arg-type]


def action(function: str, files: dict[str, File] | None = None) -> tuple[Action, Graph]:
    """A ``samples`` action of one variant."""
    graph = Graph()
    identity = graph.add("samples", params(function), files=files)
    variant = Variant(index=0, name="v", config=CONFIG, overrides=[])
    variant.steps.append(Step(role="samples", stage="samples", action=identity, gates=0))
    graph.variants.append(variant)
    return graph.actions[identity], graph


def costs_in(store: Store, graph: Graph) -> Costs:
    return Costs(graph.wanted_by(), store.index, Secrets({}))


def test_what_takes_longest_starts_first(place: Place) -> None:
    place.write(NOTES)
    store = Store(place.store)
    for name, seconds in {"one": 1.0, "two": 50.0}.items():
        measured, graph = action(name)
        costs_in(store, graph).add(measured, Cost(seconds=seconds, peak_bytes=1))
    store.end()
    outcome(place, "one", "two", workers=1)
    assert (place.base / "order").read_text().split()[0] == "two"


def test_what_ran_is_measured(place: Place) -> None:
    place.write(NOTES)
    outcome(place, "one")
    store = Store(place.store)
    ran, graph = action("one")
    (cost,) = costs_in(store, graph).narrow(ran)
    assert 0 < cost.seconds < PATIENCE_S
    assert 10 << 20 < cost.peak_bytes < 4 * GIB
    outcome(place, "one")
    assert costs_in(store, graph).narrow(ran) == [cost], "nothing ran, nothing was measured"


def test_estimates_come_from_the_nearest_kind(tmp_path: Path) -> None:
    store = Store(tmp_path)
    ran, graph = action("one")
    other, other_graph = action("two")
    durations = Durations(costs_in(store, graph))
    assert not durations.known(ran)
    assert durations.estimate(ran) == find_stage("samples").seconds
    costs = costs_in(store, graph)
    for seconds in (1.0, 90.0, 3.0):
        costs.add(ran, Cost(seconds=seconds, peak_bytes=7))
    costs_in(store, other_graph).add(other, Cost(seconds=50.0, peak_bytes=9))
    later = Durations(costs_in(store, graph))
    assert later.known(ran)
    assert later.estimate(ran) == 3.0
    wider, wider_graph = action("three")
    assert Durations(costs_in(store, wider_graph)).estimate(wider) == 26.5  # of 1, 90, 3 and 50


@pytest.mark.parametrize("text", ["", "x", "1 2 3", "1 2;", "nan 3", "1 2;x 3"])
def test_a_damaged_record_of_costs_is_a_guess_less(tmp_path: Path, text: str) -> None:
    store = Store(tmp_path)
    store.index.set("cost:samples", text)
    ran, graph = action("one")
    assert Durations(costs_in(store, graph)).estimate(ran) == find_stage("samples").seconds


def test_a_locked_index_is_waited_for_once(tmp_path: Path) -> None:
    ran, graph = action("one")
    index = Index(tmp_path, timeout_s=1.2)
    index.set("it is", "open")
    costs = Costs(graph.wanted_by(), index, Secrets({}))
    with contextlib.closing(sqlite3.connect(tmp_path / "cache.db")) as other:
        other.execute("BEGIN IMMEDIATE")
        costs.add(ran, Cost(seconds=1.0, peak_bytes=7))
    costs.add(ran, Cost(seconds=2.0, peak_bytes=7))
    assert [cost.seconds for cost in costs.narrow(ran)] == [1.0, 2.0], "known in this run"
    assert costs.wide(ran) == costs.narrow(ran)
    assert Costs(graph.wanted_by(), index, Secrets({})).wide(ran) == []
    index.close()


def test_every_stage_says_what_it_needs() -> None:
    for name in NAMES:
        stage = find_stage(name)
        assert stage.memory.bytes_for(0) >= 128 << 20, name
        assert stage.memory.bytes_for(GIB) > GIB, f"{name} reads its inputs"
        assert stage.seconds > 0, name


def test_measured_memory_takes_the_place_of_what_was_declared(tmp_path: Path) -> None:
    store, data = Store(tmp_path / "store"), tmp_path / "data"
    data.write_bytes(b"x" * 1000)
    ran, graph = action("one", {"data": File(path=data, digest="d")})
    stage = find_stage("samples")

    def memory() -> Memory:
        return Memory(costs_in(store, graph), store.trees, {}, limit_bytes=GIB)

    assert memory().need(ran) == stage.memory.bytes_for(1000)
    costs = costs_in(store, graph)
    for peak in (300, 500, 400):
        costs.add(ran, Cost(seconds=1.0, peak_bytes=peak << 20))
    assert memory().need(ran) == int(1.2 * (500 << 20))


def test_what_fits_runs_beside_and_alone_everything_does(tmp_path: Path) -> None:
    store = Store(tmp_path)
    ran, graph = action("one")
    costs_in(store, graph).add(ran, Cost(seconds=1.0, peak_bytes=100))
    for limit, beside in ((240, True), (239, False), (1, False)):
        memory = Memory(costs_in(store, graph), store.trees, {}, limit_bytes=limit)
        assert memory.fits(ran), "alone"
        memory.take(ran)
        assert memory.fits(ran) is beside
        memory.give(ran)
        assert memory.fits(ran)


def test_without_room_for_two_they_run_one_after_the_other(place: Place) -> None:
    alone = '    (HERE / "inside").mkdir(); time.sleep(0.2); (HERE / "inside").rmdir()\n'
    place.write(
        "".join(
            f"def f{n}(*, dims, offset, seed):\n{alone}    return image(dims, {n})\n"
            for n in range(3)
        )
    )
    found = outcome(place, "f0", "f1", "f2", workers=3, memory_bytes=1)
    assert {one.status for one in found.finished.values()} == {"ran"}


def test_smaller_ones_pass_a_big_one_a_few_times_only(place: Place) -> None:
    """Each small one runs until the next has begun: so there is never room by itself."""
    small = """
def f{n}(*, dims, offset, seed):
    if dims["batch"] == 1:
        (HERE / "f{n}").touch()
        for _ in range(30):
            if (HERE / "f{next}").exists(): break
            time.sleep(0.01)
    return image(dims, {n})
"""
    started: list[str] = []

    class Noting(Silent):
        def started(self, action: Action, variants: list[Variant]) -> None:
            started.append(variants[0].name)

    names = [f"f{n}" for n in range(9)]
    place.write(
        "".join(small.format(n=n, next=n + 1) for n in range(9))
        + "def big(*, dims, offset, seed):\n    return image(dims, 50)\n"
    )
    place.listener = Noting()
    store = Store(place.store)
    for name, seconds in {"f0": 100.0, "big": 50.0, **dict.fromkeys(names[1:], 1.0)}.items():
        measured, graph = action(name)
        peak = 1000 if name == "big" else 10
        costs_in(store, graph).add(measured, Cost(seconds=seconds, peak_bytes=peak))
    store.end()
    found = outcome(place, *names, "big", memory_bytes=1200)
    assert {one.status for one in found.finished.values()} == {"ran"}
    assert 1 <= started.index("big") <= 5, started


def test_patience_returns_once_there_was_room(tmp_path: Path) -> None:
    store = Store(tmp_path)
    big, graph = action("one")
    memory = Memory(costs_in(store, graph), store.trees, {}, limit_bytes=1)
    memory.take(big)
    assert not memory.fits(big)
    passed = 0
    while memory.has_patience(big):
        memory.pass_over(big)
        passed += 1
    assert passed > 1
    memory.give(big)
    assert memory.fits(big)
    assert memory.has_patience(big)


def test_more_workers_than_cores_is_told_once_something_runs(place: Place) -> None:
    place.write(NOTES)
    cores = len(os.sched_getaffinity(0))
    (warning,) = outcome(place, "one", workers=cores + 1).warnings
    assert f"executor.workers is {cores + 1}, but" in warning
    assert f"{cores} CPU cores" in warning
    assert outcome(place, "one", workers=cores + 1).warnings == []


def write(folder: Path, **files: str) -> Path:
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)
    return folder


def test_limits_and_kills_are_read_from_both_versions(tmp_path: Path) -> None:
    one = write(
        tmp_path / "1",
        memory__limit_in_bytes="1000\n",
        memory__usage_in_bytes="700\n",
        memory__stat="cache 5\ninactive_file 1\ntotal_inactive_file 200\n",
        memory__oom_control="oom_kill_disable 0\nunder_oom 0\noom_kill 3\n",
    )
    two = write(
        tmp_path / "2",
        memory__max="1000\n",
        memory__current="700\n",
        memory__stat="anon 5\ninactive_file 200\n",
        memory__events="low 0\noom 1\noom_kill 4\n",
    )
    free = write(tmp_path / "3", memory__max="max\n", memory__current="700\n")
    assert MemoryGroup(directory=one, version=1).room_bytes() == 500
    assert MemoryGroup(directory=one, version=1).kills() == 3
    assert MemoryGroup(directory=two, version=2).room_bytes() == 500
    assert MemoryGroup(directory=two, version=2).kills() == 4
    assert MemoryGroup(directory=free, version=2).room_bytes() > 1 << 60
    assert MemoryGroup(directory=free, version=2).kills() is None
    assert 0 < available_bytes() <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_the_groups_of_a_process_are_found_below_the_mount(tmp_path: Path) -> None:
    inner = write(tmp_path / "cgroup" / "a" / "b", memory__max="5", memory__current="1")
    write(
        tmp_path / "proc",
        cgroup="3:cpu:/x\n0::/a/b\n",
        mountinfo=f"31 23 0:28 / {tmp_path}/cgroup rw - cgroup2 cgroup2 rw\n"
        f"32 23 0:29 / {tmp_path}/cpu rw - cgroup cgroup rw,cpu\n",
    )
    assert groups(tmp_path / "proc") == [MemoryGroup(directory=inner, version=2)]
    assert groups(tmp_path / "nothing") == []


@pytest.fixture
def small_group() -> Iterator[Path]:
    """A memory control group with 600 MiB."""
    parent = next((group for group in groups() if group.version == 1), None)
    if parent is None:
        pytest.skip("there is no version 1 memory controller to make a group in")
    folder = parent.directory / f"test-{uuid.uuid4().hex[:8]}"
    try:
        folder.mkdir()
        (folder / "memory.limit_in_bytes").write_text(str(600 << 20))
    except OSError as exc:
        pytest.skip(f"a control group cannot be made here: {exc}")
    yield folder
    folder.rmdir()


HUNGRY = """
def slow(*, dims, offset, seed):
    if dims["batch"] == 1:
        (HERE / "began").touch()
        for _ in range(3000):
            if (HERE / "again").exists() or (HERE / "killed").exists(): break
            time.sleep(0.01)
        time.sleep(1)
        (HERE / "slow").touch()
    return image(dims)
def hungry(*, dims, offset, seed):
    if (HERE / "killed").exists():
        assert (HERE / "slow").exists(), "it is not alone"
        return image(dims, 1.0)
    while not (HERE / "began").exists(): time.sleep(0.01)
    (HERE / "killed").touch()
    return image(dims, np.ones(1 << 28).sum())
"""
RUN = """
import json, sys
from pathlib import Path
from tests.executor.runs import Place
outcome, ids = Place(Path(sys.argv[1])).outcome(
    ["slow", "hungry", "greedy"], None, (), 2, sys.path, retries=1)
print(json.dumps({name: [one.status, one.retries, str(one.error)]
    for name, identity in ids.items() for one in [outcome.finished[identity]]}))
"""


@pytest.mark.slow  # until the kernel kills, it tries to do without
def test_what_the_kernel_kills_for_memory_is_told_and_runs_again_alone(
    place: Place, small_group: Path
) -> None:
    place.write(
        HUNGRY + "def greedy(*, dims, offset, seed):\n    return image(dims, np.ones(1 << 28)[0])\n"
    )
    command = [sys.executable, "-c", RUN, str(place.root)]
    ran = subprocess.run(
        ["sh", "-c", 'echo $$ > "$0"/cgroup.procs && exec "$@"', str(small_group), *command],
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE_S,
        check=False,
    )
    found = json.loads(ran.stdout or f'"{ran.stderr}"')
    assert found["slow"][:2] == ["ran", 0]
    assert found["hungry"][:2] == ["ran", 1], found
    assert found["greedy"][:2] == ["failed", 1]
    assert "was killed by the kernel for want of memory (SIGKILL)" in found["greedy"][2]
    assert "executor.memory_gib" in found["greedy"][2]


def test_a_kill_is_claimed_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    proc = write(tmp_path / "proc", cgroup="", mountinfo="")
    counter = tmp_path / "vmstat"
    counter.write_text("oom_kill 5\n")
    monkeypatch.setattr(cgroups, "_VMSTAT", counter)
    monkeypatch.setattr(cgroups, "_PROC", proc)
    kills = cgroups.Kills()
    assert kills.claim() is False
    counter.write_text("oom_kill 6\n")
    assert [kills.claim(), kills.claim()] == [True, False]
    counter.unlink()
    assert kills.claim() is None
