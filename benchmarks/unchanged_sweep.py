"""What it costs that nothing has changed in a large sweep, beside other tools, in the same run.

Builds a sweep of digits variants once; they differ in what enters no key of an expensive stage.
Then it times in turns: the same command again, the same graph in doit and in snakemake, and an
empty Hydra multirun of as many jobs. The graph has a task for each stage of each variant, which
depends on the outputs of the tasks before it; the first ones depend on the files that the stages
depend on: configurations, the model's code and its weights. It prints medians and ratios as
Markdown. ``--checkpoint-gb`` adds a file of that size to what the model depends on.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.timing import EMPTY_HYDRA, ORCHESTRATE, Place, interleaved, machine, table
from orchestrator.locations import bundled

_DODO: Final = """\
import json

TASKS = json.load(open("tasks.json"))

def task_stage():
    for name, sources in TASKS.items():
        yield {
            "name": name,
            "file_dep": sources,
            "targets": [name],
            "actions": [f"mkdir -p $(dirname {name}) && echo made > {name}"],
        }
"""
_SNAKEFILE: Final = """\
import json

TASKS = json.load(open("tasks.json"))

rule all:
    input: list(TASKS)

rule stage:
    input: lambda wildcards: TASKS[f"out/{wildcards.variant}/{wildcards.role}"]
    output: "out/{variant}/{role}"
    shell: "echo made > {output}"
"""
#: Role → the roles whose outputs its task takes; a role that is not here starts from files.
_BEFORE: Final[Mapping[str, Sequence[str]]] = {
    "reference": ("samples",),
    "simplify": ("export",),
    "canonicalize": ("simplify",),
    "run onnx": ("canonicalize", "samples"),
    "judge onnx": ("reference", "run onnx"),
    "cast": ("canonicalize",),
    "run lowered": ("cast", "samples"),
    "judge lowered": ("reference", "run lowered"),
    "build": ("cast", "canonicalize"),
    "run session": ("build", "samples"),
    "judge session": ("reference", "run session"),
    "audit": ("build", "samples"),
}


def sweep(variants: int, checkpoint: Path | None) -> list[str]:
    """Return the words of a sweep of *variants* variants, an even number."""
    limits = ",".join(f"{1e-3 + number * 1e-6:.6f}" for number in range(variants // 2))
    more = [f"+model.files=[{checkpoint}]"] if checkpoint else []
    return [
        *("-m", "precision=fp32,fp16", f"compare.min_variation={limits}", "benchmark=none"),
        *more,
    ]


def roles(place: Place, words: Sequence[str]) -> Iterator[list[str]]:
    """Build the sweep; yield the roles of the stages of each variant.

    Raises:
        subprocess.CalledProcessError: a variant failed.
    """
    made = subprocess.run(
        [*ORCHESTRATE, "--json", *words],
        cwd=place.folder,
        env=place.environment,
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    content: Mapping[str, Any] = json.loads(made.stdout)
    for variant in content["variants"]:
        yield [action["role"] for action in variant["actions"]]


def tasks(variants: Sequence[Sequence[str]], checkpoint: Path | None) -> dict[str, list[str]]:
    """Return each task's target and the files that it depends on."""
    package = bundled("conf").parent / "orchestrator" / "examples" / "digits"
    configurations = sorted(str(path) for path in bundled("conf").rglob("*.yaml"))
    model = sorted(str(path) for path in package.iterdir() if path.is_file())
    files = [*configurations, *model, *([str(checkpoint)] if checkpoint else [])]
    found = {}
    for number, own in enumerate(variants):
        for role in own:
            before = [one for one in _BEFORE.get(role, ()) if one in own]
            name = _target(number, role)
            found[name] = [_target(number, one) for one in before] if before else files
    return found


def _target(variant: int, role: str) -> str:
    return f"out/{variant}/{role.replace(' ', '-')}"


def write_tasks(folder: Path, graph: Mapping[str, Sequence[str]]) -> None:
    """Write the graph for doit and snakemake, and Hydra's empty application."""
    (folder / "tasks.json").write_text(json.dumps(graph), encoding="utf-8")
    (folder / "dodo.py").write_text(_DODO, encoding="utf-8")
    (folder / "Snakefile").write_text(_SNAKEFILE, encoding="utf-8")
    (folder / "empty.py").write_text(EMPTY_HYDRA, encoding="utf-8")


def version(python: str, distribution: str) -> str:
    """Return the version of what *python* has installed.

    Raises:
        subprocess.CalledProcessError: it is not installed there.
    """
    code = f"import importlib.metadata as m; print(m.version({distribution!r}))"
    return subprocess.run(
        [python, "-c", code], check=True, capture_output=True, text=True
    ).stdout.strip()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--variants", type=int, default=100, help="an even number")
    parser.add_argument("--rounds", type=int, default=5, help="timings of each command")
    parser.add_argument("--checkpoint-gb", type=float, default=0, help="size of a further input")
    parser.add_argument("--tools", default=sys.executable, help="a Python with doit, snakemake")
    parser.add_argument("--without", nargs="*", default=[], help="what not to time")
    options = parser.parse_args()
    tools = str(Path(options.tools).absolute())  # a link of a virtual environment: not resolved
    with tempfile.TemporaryDirectory() as name:
        place = Place(folder=Path(name))
        checkpoint = place.folder / "checkpoint.bin" if options.checkpoint_gb else None
        if checkpoint:
            with checkpoint.open("wb") as file:
                file.truncate(int(options.checkpoint_gb * 1e9))
        words = sweep(options.variants, checkpoint)
        print(f"building {options.variants} variants once", file=sys.stderr, flush=True)
        graph = tasks(list(roles(place, words)), checkpoint)
        write_tasks(place.folder, graph)
        jobs = ",".join(map(str, range(options.variants)))
        commands: dict[str, Sequence[str]] = {
            "orchestrate": [*ORCHESTRATE, *words],
            "doit": [tools, "-m", "doit"],
            "snakemake": [tools, "-m", "snakemake", "--cores", "2", "--quiet"],
            "empty Hydra multirun": [sys.executable, "empty.py", "-m", f"+n={jobs}"],
        }
        commands = {one: two for one, two in commands.items() if one not in options.without}
        for label in {"doit", "snakemake"} & set(commands):
            print(f"{label} for the first time", file=sys.stderr, flush=True)
            place.timed(commands[label])
        spent = interleaved(place, commands, options.rounds)
    others = [f"{one} {version(tools, one)}" for one in ("doit", "snakemake")]
    print(f"{machine('hydra-core')}, {', '.join(others)}")
    print(f"\n{options.variants} variants, {len(graph)} stage instances, nothing changed", end="")
    print(f", with a checkpoint of {options.checkpoint_gb:g} GB" if checkpoint else "", end=":\n\n")
    print(table(spent, "doit" if "doit" in commands else "orchestrate"))


if __name__ == "__main__":
    main()
