"""What it costs that nothing has changed, beside an empty Hydra application in the same run.

``make bench`` builds the three digits variants once, then times, in turns so that drift meets all
alike: the same command again, ``--help``, and an empty Hydra application's single run and multirun
of three jobs. It prints medians and ratios as Markdown.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from orchestrator.backends.onnxruntime.installed import cpu_target

ORCHESTRATE = [sys.executable, "-m", "orchestrator.cli.main"]
SWEEP = ["-m", "precision=fp32,fp16,int8"]
EMPTY = """\
import hydra

@hydra.main(version_base="1.3", config_path=None)
def main(cfg):
    pass

main()
"""


def timed(command: list[str], directory: Path, environment: dict[str, str]) -> float:
    """Return the wall time of one command in seconds.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    begun = time.perf_counter()
    subprocess.run(
        command,
        cwd=directory,
        env=environment,
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return time.perf_counter() - begun


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7, help="timings of each command")
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "empty.py").write_text(EMPTY, encoding="utf-8")
        environment = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache"), "TMPDIR": name}
        print("building the three variants once", file=sys.stderr, flush=True)
        cold = timed([*ORCHESTRATE, *SWEEP], folder, environment)
        empty = [sys.executable, "empty.py"]
        commands = {
            "three variants, unchanged": [*ORCHESTRATE, *SWEEP],
            "one variant, unchanged": ORCHESTRATE,
            "plan of three variants": [*ORCHESTRATE, "plan", *SWEEP],
            "--help": [*ORCHESTRATE, "--help"],
            "empty Hydra application": empty,
            "empty Hydra multirun of three": [*empty, "-m", "+n=1,2,3"],
        }
        times: dict[str, list[float]] = {label: [] for label in commands}
        for number in range(rounds):
            print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
            for label, command in commands.items():
                times[label].append(timed(command, folder, environment))
    unit = statistics.median(times["empty Hydra application"])
    print(
        f"{platform.machine()}, {cpu_target()['model']}, {len(os.sched_getaffinity(0))} cores, ",
        end="",
    )
    print(f"Python {platform.python_version()}, ", end="")
    names = ("hydra-core", "pydantic", "torch", "onnxruntime")
    print(", ".join(f"{one} {importlib.metadata.version(one)}" for one in names))
    print(f"\nCold, three variants: {cold:.1f} s (once). Medians of {rounds} rounds:\n")
    print("| command | seconds | / empty Hydra application |\n|---|--:|--:|")
    for label, found in times.items():
        median = statistics.median(found)
        print(f"| {label} | {median:.2f} | {median / unit:.2f} |")


if __name__ == "__main__":
    main()
