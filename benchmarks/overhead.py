"""What the orchestrator adds: to each action, to a command that only prints, to memory.

The action is a trivial one, one batch of a few random numbers, run by the real executor with one
worker at a time, from a server that has torch imported: key, request, fork, stage, digests, store.
Beside it, in turns, a process of the standard library's forkserver with torch imported that does
nothing. Memory is the peak of the command's own process, without its server and workers.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, cast

from benchmarks.timing import ORCHESTRATE, Place, machine, wall_s
from benchmarks.unchanged_sweep import sweep
from orchestrator.config.schema import Config, Model
from orchestrator.executor.local import LocalExecutor
from orchestrator.executor.outcome import Estimates, Finished
from orchestrator.executor.pool import Pool
from orchestrator.plan.graph import Action, Graph, Step, Variant
from orchestrator.plan.observed import Observer
from orchestrator.plan.resolve import Resolver
from orchestrator.plan.secrets import Secrets
from orchestrator.store.store import Store

#: Prints the seconds of each of a number of processes, on average.
BARE: Final = """\
import multiprocessing, sys, time

def nothing():
    pass

def once(context):
    process = context.Process(target=nothing)
    process.start()
    process.join()

if __name__ == "__main__":
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch"])
    once(context)
    count = int(sys.argv[1])
    begun = time.perf_counter()
    for number in range(count):
        once(context)
    print((time.perf_counter() - begun) / count)
"""
#: Of a configuration only the model's name is asked for: no variant here has a gate.
_CONFIG: Final[Config] = cast("Any", Config).model_construct(
    model=cast("Any", Model).model_construct(name="trivial")
)
_POLL_S: Final = 0.05


class Silent:
    """A listener that does nothing."""

    def planned(self, graph: Graph, estimates: Estimates, workers: int) -> None:
        """Do nothing."""

    def started(self, action: Action, variants: list[Variant]) -> None:
        """Do nothing."""

    def progressed(self, action: Action, done: float, text: str) -> None:
        """Do nothing."""

    def finished(self, action: Action, variants: list[Variant], finished: Finished) -> None:
        """Do nothing."""

    def waiting(self, action: Action, reason: str) -> None:
        """Do nothing."""


def trivial(seeds: Sequence[int]) -> Graph:
    """Return a graph of one variant for each seed, which draws one batch of random numbers."""
    graph = Graph()
    for number, seed in enumerate(seeds):
        identity = graph.add("samples", _params(seed))
        variant = Variant(index=number, name=f"seed {seed}", config=_CONFIG, overrides=[])
        variant.steps.append(Step(role="samples", stage="samples", action=identity, gates=0))
        graph.variants.append(variant)
    return graph


def _params(seed: int) -> dict[str, Any]:
    return {
        "data": {"kind": "generator", "seed": seed, "inputs": {}},
        "inputs": {"image": {"dtype": "float32", "shape": ["batch", 3]}},
        "order": ["image"],
        "dims": {"batch": {"min": 1, "opt": 1, "max": 1}},
        "purpose": "calibration",
        "batches": 0,
        "count": 1,
    }


class Actions:
    """Runs trivial actions in one place with one warm server."""

    def __init__(self, folder: Path, store: Store, scratch: Path, pool: Pool) -> None:
        self._folder, self._store, self._scratch, self._pool = folder, store, scratch, pool
        self._seed = 0

    def run(self, count: int) -> float:
        """Run *count* actions, none of which ran before; return the seconds of each, on average.

        Raises:
            RuntimeError: an action failed.
        """
        graph = trivial(range(self._seed, self._seed + count))
        self._seed += count
        secrets = Secrets({})
        observer = Observer(self._folder, [str(self._folder), *sys.path], self._store.index)
        executor = LocalExecutor(
            graph,
            self._store,
            Resolver(self._store, observer, secrets),
            observer,
            secrets,
            self._pool,
            Silent(),
            scratch=self._scratch,
            base=self._folder,
            workers=1,
        )
        begun = time.perf_counter()
        outcome = executor.run()
        seconds = time.perf_counter() - begun
        failed = [one.error for one in outcome.finished.values() if one.status != "ran"]
        if failed:
            raise RuntimeError(f"{len(failed)} of {count} actions did not run: {failed[0]}")
        return seconds / count


@contextlib.contextmanager
def actions(folder: Path) -> Iterator[Actions]:
    """Start a server that has torch imported; it ends with the block."""
    store = Store(folder / "store")
    scratch = store.begin()
    pool = Pool(folder, scratch, sys.path)
    try:
        made = Actions(folder, store, scratch, pool)
        pool.preload(["torch"])
        made.run(1)
        yield made
    finally:
        pool.stop()
        store.end()


def bare(place: Place, count: int) -> float:
    """Return the seconds of each of *count* processes that do nothing, on average.

    Raises:
        subprocess.CalledProcessError: one failed.
    """
    script = place.folder / "bare.py"
    script.write_text(BARE, encoding="utf-8")
    told = subprocess.run(
        [sys.executable, str(script), str(count)],
        cwd=place.folder,
        env=place.environment,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return float(told.stdout)


def peak_bytes(place: Place, command: Sequence[str]) -> int:
    """Return the peak resident memory of the process that runs *command*, alone.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    found = 0
    process = place.start(command)
    while process.poll() is None:
        # Not ru_maxrss: that of a process that was waited for counts those it waited for.
        found = max(found, _high_water(process.pid))
        time.sleep(_POLL_S)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, list(command))
    return found


def _high_water(pid: int) -> int:
    """Return the peak so far in bytes; 0 for a process that has ended."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def measure_actions(rounds: int, count: int) -> None:
    """Measure and print what an action costs beside a bare process."""
    ours, theirs = [], []
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        place = Place(folder=Path(other))
        with actions(Path(one)) as made:
            for number in range(rounds):
                print(f"actions, round {number + 1} of {rounds}", file=sys.stderr, flush=True)
                ours.append(made.run(count))
                theirs.append(bare(place, count))
    unit = statistics.median(theirs)
    print(f"Trivial actions, means of {count}, medians of {rounds} rounds:\n")
    print("| one process | ms | / bare |\n|---|--:|--:|")
    print(f"| bare forkserver process, torch imported | {unit * 1e3:.1f} | 1.00 |")
    median = statistics.median(ours)
    print(f"| isolated action | {median * 1e3:.1f} | {median / unit:.2f} |\n")


def measure_help(rounds: int) -> None:
    """Measure and print what ``--help`` takes."""
    with tempfile.TemporaryDirectory() as name:
        place = Place(folder=Path(name))
        found = [place.timed([*ORCHESTRATE, "--help"]) for _ in range(rounds)]
    print(f"`--help`: {wall_s(found):.2f} s, median of {rounds}.\n")


def measure_memory(variants: int) -> None:
    """Measure and print the parent's peak memory in a large sweep, from nothing and unchanged."""
    print(f"| parent, {variants} variants | peak MB | seconds |\n|---|--:|--:|")
    with tempfile.TemporaryDirectory() as name:
        place = Place(folder=Path(name))
        command = [*ORCHESTRATE, *sweep(variants, None)]
        for label in ("from an empty store", "unchanged"):
            print(f"{variants} variants, {label}", file=sys.stderr, flush=True)
            begun = time.perf_counter()
            peak = peak_bytes(place, command) / 1e6
            print(f"| {label} | {peak:.0f} | {time.perf_counter() - begun:.1f} |")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7, help="rounds of actions, of --help")
    parser.add_argument("--actions", type=int, default=20, help="actions a round")
    parser.add_argument("--variants", type=int, default=1000, help="of the sweep; even; 0: none")
    options = parser.parse_args()
    print(machine("torch", "hydra-core", "pydantic"), end="\n\n")
    measure_actions(options.rounds, options.actions)
    measure_help(options.rounds)
    if options.variants:
        measure_memory(options.variants)


if __name__ == "__main__":
    main()
