"""Shows ``target=tensorrt`` on a GPU through the ``orchestrate`` command, and keeps a row a step.

Usage, from the repository with the interpreter that has PyTorch::

    python -m tests.gpu.check_orchestrate --toolchain /path/to/python-with-tensorrt --work DIR

DIR holds the store, the experiment directories and ``rows.jsonl``. A step whose row is there is not
repeated, so a visit that was cut short goes on where it stopped, also in the middle of a sweep:
what was built is in the store. The steps are in order of importance; the last lines are a table.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tests.gpu.commands import REPOSITORY, Command, workplace
from tests.gpu.rows import Rows
from tests.gpu.steps import changes, devices, leaks, mistakes, processes, speed, sweeps
from tests.gpu.steps.check import Check, Json

Step = Callable[[Check], Json]
MODELS = ("digits", "resnet50", "vit_b_16", "encoder")
MISTAKES: dict[str, Step] = {
    "plan of another version": mistakes.plan_version,
    "truncated plan": mistakes.plan_truncated,
    "flipped bit in a plan": mistakes.plan_flipped,
    "flipped bit in the store": mistakes.stored_flipped,
    "missing plugin": mistakes.plugin,
    "profile with min above max": mistakes.profile_order,
    "profile outside the model": mistakes.profile_range,
    "option of a newer TensorRT": mistakes.option,
    "precision of a newer TensorRT": mistakes.precision,
    "no driver": mistakes.no_driver,
    "no TensorRT": mistakes.no_tensorrt,
    "too little memory": mistakes.memory,
    "nothing lost": mistakes.whole,
}
PROCESSES: dict[str, Step] = {
    "two ask for one engine": processes.two,
    "parent killed": processes.parent_killed,
    "worker killed": processes.worker_killed,
    "worker retried": processes.worker_retried,
}
DEVICES: dict[str, Step] = {
    "two GPUs at once": devices.at_once,
    "neighbour": devices.neighbour,
}
CHANGES: dict[str, Step] = {
    "workspace": changes.workspace,
    "weights": changes.weights,
    "refit": changes.refit,
}


def steps(models: Sequence[str], large: str) -> Iterator[tuple[str, Step]]:
    """Yield name and function of every step, the most important first.

    Args:
        models: The networks of the sweeps; the first is swept before anything else.
        large: The network whose speed is compared.
    """
    yield from _sweeps(models[:1])
    yield from _named("change", CHANGES)
    yield from _named("processes", PROCESSES)
    yield from _named("devices", DEVICES)
    yield from _named("mistake", MISTAKES)
    yield from _sweeps([name for name in models[1:] if name == large])
    yield "bare latency", functools.partial(speed.latency, model=large)
    yield "bare build", functools.partial(speed.overhead, model=large)
    yield "endurance", functools.partial(leaks.endurance, model=models[0])
    yield from _sweeps([name for name in models[1:] if name != large])
    yield "profiles", functools.partial(sweeps.profiles, model=models[0])
    yield "beside", functools.partial(sweeps.beside, model=large)
    yield f"profiles {large}", functools.partial(sweeps.profiles, model=large)
    yield f"endurance {large}", functools.partial(leaks.endurance, model=large)


def _sweeps(models: Sequence[str]) -> Iterator[tuple[str, Step]]:
    for name in models:
        yield f"sweep {name}", functools.partial(sweeps.sweep, model=name)
        yield f"again {name}", functools.partial(sweeps.again, model=name)


def _named(subject: str, found: dict[str, Step]) -> Iterator[tuple[str, Step]]:
    for name, step in found.items():
        yield f"{subject}: {name}", step


def main(arguments: Sequence[str] | None = None) -> int:
    """Do the steps; return 1 when one was not what was expected."""
    options = _options(arguments)
    work = options.work.absolute()
    place = workplace(work)
    hidden = {
        str(work): "<work>",
        str(REPOSITORY): "<repository>",
        sys.executable: "python3",
        **{word: "<toolchain>" for word in options.toolchain if "/" in word},
    }
    rows = Rows(
        path=options.rows or work / "rows.jsonl",
        only=[part.strip() for part in options.only.split(",") if part.strip()],
        again=options.again,
        budget_s=options.budget_s,
        hidden=hidden,
    )
    command = Command(
        place=place,
        rows=rows,
        toolchain=options.toolchain,
        target=options.target,
        more=options.override,
    )
    check = Check(
        command=command,
        rows=rows,
        work=work,
        rounds=options.rounds,
        patience_s=options.patience_s,
    )
    todo = list(steps(options.models, options.large))
    if options.list:
        print("\n".join(name for name, _ in todo))
        return 0
    for name, step in todo:
        rows.step(name, functools.partial(step, check))
    return 1 if rows.summary() else 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--toolchain", nargs="+", default=[], help="words of toolchain.command")
    parser.add_argument("--work", type=Path, required=True, help="store, results and rows")
    parser.add_argument("--rows", type=Path, help="file of the rows (default: WORK/rows.jsonl)")
    parser.add_argument("--only", default="", help="do steps whose names hold one of A,B,…")
    parser.add_argument("--again", action="store_true", help="repeat steps that have a row")
    parser.add_argument("--budget-s", type=float, default=float("inf"), help="then start no step")
    parser.add_argument("--models", nargs="+", default=list(MODELS), help="networks of the sweeps")
    parser.add_argument("--large", default="resnet50", help="network whose speed is compared")
    parser.add_argument("--target", default="trt86", help="the target group")
    parser.add_argument("--override", action="append", default=[], help="in every build")
    parser.add_argument("--rounds", type=int, default=5, help="turns of a comparison, 2 to 10")
    parser.add_argument("--patience-s", type=float, default=4.0, help="seconds until it builds")
    parser.add_argument("--list", action="store_true", help="print the steps' names and stop")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
