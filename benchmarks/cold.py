"""What a build from an empty store costs: a sweep beside its bound, one variant beside a script.

The sweep is 24 small variants of digits, half of them measured. Its bound is
max(critical path, exclusive time + rest / cores), from what the actions took in the same run. The
wall time is the whole command's, so it contains two things that are no action's: *start* (the
interpreter, composing and planning all variants) and *imports* (what the server imports before it
can fork the first export; timed by itself, in a process that does nothing else). The ratio is
printed with and without them; the one without is what scheduling and isolation cost, the other what
a user waits. *end*, from the last action to the end of the command (experiment directories, the
table), is in both.

One variant is timed beside :mod:`benchmarks.plain`, which makes the same library calls in one
process, in turns so that drift meets both alike; and with one worker, which is what isolation,
keys and the store cost where nothing runs beside anything.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from benchmarks import plain
from benchmarks.bounds import Took, bound_of
from benchmarks.graphs import graph_of
from benchmarks.timing import ORCHESTRATE, Place, Spent, machine, table, wall_s
from orchestrator.executor.needs import modules_for
from orchestrator.plan.graph import Graph

#: 3 x 2 x 2 x 2 variants; those of level `all` are measured.
SWEEP: Final = (
    "precision=fp32,fp16,int8",
    "exporter.opset=18,20",
    "simplifier=onnxsim,none",
    "target.optimization_level=all,basic",
    "hydra.sweeper.include=[{target.optimization_level: all, benchmark: default}, "
    "{target.optimization_level: basic, benchmark: none}]",
)


@dataclass(frozen=True, kw_only=True)
class Run:
    """One sweep from an empty store. Times are in seconds.

    Attributes:
        wall_s: Of the whole command.
        start_s: Until its graph was planned.
        end_s: From the end of the last action.
        ran: How many actions ran.
        took: What each action of the graph took, by its id.
    """

    wall_s: float
    start_s: float
    end_s: float
    ran: int
    took: Mapping[str, Took]

    @property
    def distinct(self) -> int:
        """How many different keys the actions have."""
        return len({one.key for one in self.took.values()})


@contextmanager
def empty_place() -> Iterator[Place]:
    """Make a place with an empty store, and remove it."""
    with tempfile.TemporaryDirectory() as name:
        yield Place(folder=Path(name))


def run_sweep(words: Sequence[str], graph: Graph) -> Run:
    """Run the sweep *words*, whose graph is *graph*, from an empty store.

    Raises:
        subprocess.CalledProcessError: a variant failed.
    """
    with empty_place() as place:
        told, events = place.folder / "ending.json", place.folder / "events.jsonl"
        with told.open("wb") as out, events.open("wb") as err:
            begun = time.time()
            command = [*ORCHESTRATE, "--json", "-m", *words]
            subprocess.run(
                command, cwd=place.folder, env=place.environment, check=True, stdout=out, stderr=err
            )
            ended = time.time()
        content = json.loads(told.read_bytes())
        lines = [json.loads(line) for line in events.read_text(encoding="utf-8").splitlines()]
    planned = next(_time(line) for line in lines if line["event"] == "planned")
    ran = [line for line in lines if line["event"] == "finished" and line["status"] == "ran"]
    return Run(
        wall_s=ended - begun,
        start_s=planned - begun,
        end_s=ended - _time(ran[-1]),
        ran=len(ran),
        took=_took(graph, content["variants"]),
    )


def _time(line: Mapping[str, Any]) -> float:
    return datetime.fromisoformat(line["time"]).timestamp()


def _took(graph: Graph, manifests: Sequence[Mapping[str, Any]]) -> dict[str, Took]:
    return {
        step.action: Took(key=action["key"], seconds=action["built_seconds"])
        for variant, manifest in zip(graph.variants, manifests, strict=True)
        for step, action in zip(variant.steps, manifest["actions"], strict=True)
    }


def imports_s(graph: Graph, rounds: int) -> float:
    """Return the median seconds in which a fresh interpreter imports what the server imports.

    Raises:
        subprocess.CalledProcessError: a library is missing.
    """
    code = "import importlib, sys; [*map(importlib.import_module, sys.argv[1:])]"
    command = [sys.executable, "-P", "-c", code, *modules_for(graph.actions.values())]
    with empty_place() as place:
        return wall_s([place.timed(command) for _ in range(rounds)])


def sweep_table(graph: Graph, runs: Sequence[Run], cores: int, importing_s: float) -> str:
    """Return Markdown: a row for each run with its bound."""
    instances = sum(len(variant.steps) for variant in graph.variants)
    lines = [
        f"{len(graph.variants)} variants, {instances} stage instances, "
        f"{len(graph.actions)} planned actions, {cores} cores, from an empty store; the server's "
        f"imports take {importing_s:.2f} s by themselves:\n",
        "| wall s | critical path s | exclusive s | rest s | bound s | wall / bound | start s "
        "| end s | (wall - start - imports) / bound | ran | distinct |",
        "|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for one in runs:
        bound = bound_of(graph, one.took, cores)
        acting_s = one.wall_s - one.start_s - importing_s
        lines.append(
            f"| {one.wall_s:.2f} | {bound.critical_s:.2f} | {bound.exclusive_s:.2f} "
            f"| {bound.rest_s:.2f} | {bound.seconds:.2f} | {one.wall_s / bound.seconds:.2f} "
            f"| {one.start_s:.2f} | {one.end_s:.2f} | {acting_s / bound.seconds:.2f} "
            f"| {one.ran} | {one.distinct} |"
        )
    return "\n".join(lines)


def one_variant(rounds: int) -> dict[str, list[Spent]]:
    """Return what one variant took in *rounds* rounds, each from an empty store.

    Raises:
        subprocess.CalledProcessError: a command failed.
    """
    chain = plain.chain_of(graph_of([], multirun=False))
    commands = {
        "plain script": [sys.executable, plain.__file__, "chain.json", "made"],
        "orchestrate": [*ORCHESTRATE],
        "orchestrate, one worker": [*ORCHESTRATE, "executor.workers=1"],
    }
    found: dict[str, list[Spent]] = {label: [] for label in commands}
    for number in range(rounds):
        print(f"one variant, round {number + 1} of {rounds}", file=sys.stderr, flush=True)
        for label, command in commands.items():
            with empty_place() as place:
                (place.folder / "chain.json").write_text(chain, encoding="utf-8")
                found[label].append(place.timed(command))
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sweeps", type=int, default=3, help="runs of the sweep")
    parser.add_argument("--rounds", type=int, default=5, help="timings of one variant")
    options = parser.parse_args()
    print(machine("torch", "onnx", "onnxruntime", "onnxsim"), end="\n\n")
    if options.sweeps:
        graph, runs = graph_of(SWEEP, multirun=True), []
        for number in range(options.sweeps):
            print(f"sweep {number + 1} of {options.sweeps}", file=sys.stderr, flush=True)
            runs.append(run_sweep(SWEEP, graph))
        importing_s = imports_s(graph, options.sweeps)
        print(sweep_table(graph, runs, len(os.sched_getaffinity(0)), importing_s), end="\n\n")
    if options.rounds:
        spent = one_variant(options.rounds)
        ratios = [
            ours.wall_s / theirs.wall_s
            for ours, theirs in zip(spent["orchestrate"], spent["plain script"], strict=True)
        ]
        print(
            f"One variant from an empty store, medians of {options.rounds} rounds (median of the "
            f"rounds' ratios: {statistics.median(ratios):.2f}; memory is that of the largest "
            "process):\n"
        )
        print(table(spent, "plain script"))


if __name__ == "__main__":
    main()
