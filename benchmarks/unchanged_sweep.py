"""What it costs that nothing has changed in a large sweep, beside other tools, in the same run.

Builds a sweep of digits variants once (they differ in what enters no key of an expensive stage),
then times in turns: the same command again, an empty Hydra multirun of as many jobs, and, where
they are installed, doit and snakemake over as many tasks as the sweep has stage instances, which
depend on the same files. It prints medians and ratios as Markdown; a tool that is missing is named.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.unchanged import EMPTY, ORCHESTRATE, timed
from orchestrator.backends.onnxruntime.installed import cpu_target
from orchestrator.locations import bundled

PRECISIONS = ("fp32", "fp16")
DODO = """\
import json

TASKS = json.load(open("tasks.json"))

def task_stage():
    for name, sources in TASKS.items():
        yield {
            "name": name,
            "file_dep": sources,
            "targets": [f"out/{name}"],
            "actions": [f"mkdir -p out && touch out/{name}"],
        }
"""
SNAKEFILE = """\
import json

TASKS = json.load(open("tasks.json"))

rule all:
    input: [f"made/{name}" for name in TASKS]

rule stage:
    input: lambda wildcards: TASKS[wildcards.name]
    output: "made/{name}"
    shell: "touch {output}"
"""


def sweep(variants: int) -> list[str]:
    """Return the words of a sweep of *variants* variants, an even number."""
    limits = ",".join(f"{1e-3 + number * 1e-6:.6f}" for number in range(variants // 2))
    return [
        "-m",
        f"precision={','.join(PRECISIONS)}",
        f"compare.min_variation={limits}",
        "benchmark=none",
    ]


def stage_instances(folder: Path, words: list[str], environment: dict[str, str]) -> int:
    """Return how many stage instances the sweep has, from its results.

    Raises:
        subprocess.CalledProcessError: a variant failed.
    """
    made = subprocess.run(
        [*ORCHESTRATE, "--json", *words],
        cwd=folder,
        env=environment,
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    counts: dict[str, int] = json.loads(made.stdout)["counts"]
    return sum(counts.values())


def write_tasks(folder: Path, count: int) -> None:
    """Write the same graph for doit and snakemake: *count* tasks over our configuration files."""
    files = sorted(str(path) for path in bundled("conf").rglob("*.yaml"))
    tasks = {f"t{number}": [files[number % len(files)]] for number in range(count)}
    (folder / "tasks.json").write_text(json.dumps(tasks), encoding="utf-8")
    (folder / "dodo.py").write_text(DODO, encoding="utf-8")
    (folder / "Snakefile").write_text(SNAKEFILE, encoding="utf-8")
    (folder / "empty.py").write_text(EMPTY, encoding="utf-8")


def commands(words: list[str], variants: int) -> dict[str, list[str]]:
    """Return what is timed, by label; tools that are not installed are left out."""
    jobs = ",".join(map(str, range(variants)))
    found = {
        "orchestrate": [*ORCHESTRATE, *words],
        "empty Hydra multirun": [sys.executable, "empty.py", "-m", f"+n={jobs}"],
    }
    if importlib.util.find_spec("doit"):
        found["doit"] = [sys.executable, "-m", "doit"]
    if importlib.util.find_spec("snakemake"):
        found["snakemake"] = [sys.executable, "-m", "snakemake", "--cores", "1", "--quiet"]
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--variants", type=int, default=100, help="an even number")
    parser.add_argument("--rounds", type=int, default=5, help="timings of each command")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        environment = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache"), "TMPDIR": name}
        words = sweep(options.variants)
        print(f"building {options.variants} variants once", file=sys.stderr, flush=True)
        count = stage_instances(folder, words, environment)
        write_tasks(folder, count)
        compared = commands(words, options.variants)
        for command in compared.values():
            timed(command, folder, environment)  # nothing is left to do afterwards
        times: dict[str, list[float]] = {label: [] for label in compared}
        for number in range(options.rounds):
            print(f"round {number + 1} of {options.rounds}", file=sys.stderr, flush=True)
            for label, command in compared.items():
                times[label].append(timed(command, folder, environment))
    _print(times, options.variants, count)


def _print(times: dict[str, list[float]], variants: int, count: int) -> None:
    names = [one for one in ("hydra-core", "doit", "snakemake") if _version(one)]
    versions = ", ".join(f"{one} {_version(one)}" for one in names)
    print(f"{platform.machine()}, {cpu_target()['model']}, {len(os.sched_getaffinity(0))} cores, ")
    print(f"Python {platform.python_version()}, {versions}")
    print(f"\n{variants} variants, {count} stage instances, nothing changed:\n")
    print("| command | seconds | orchestrate / this |\n|---|--:|--:|")
    ours = statistics.median(times["orchestrate"])
    for label, found in times.items():
        median = statistics.median(found)
        print(f"| {label} | {median:.2f} | {ours / median:.2f} |")
    for tool in ("doit", "snakemake"):
        if tool not in times:
            print(f"\n{tool} is not installed: pip install {tool}")


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""


if __name__ == "__main__":
    main()
