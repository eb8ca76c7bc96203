"""What all benchmarks share: timed commands, interleaved rounds, and how results are told."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from orchestrator.backends.onnxruntime.installed import cpu_target

ORCHESTRATE: Final = (sys.executable, "-m", "orchestrator.cli.main")
#: An application of Hydra's that does nothing.
EMPTY_HYDRA: Final = """\
import hydra

@hydra.main(version_base="1.3", config_path=None)
def main(cfg):
    pass

main()
"""


@dataclass(frozen=True, kw_only=True)
class Spent:
    """What one command took: wall and CPU time in seconds, and its own peak memory in bytes."""

    wall_s: float
    cpu_s: float
    peak_bytes: int


@dataclass(frozen=True, kw_only=True)
class Place:
    """An empty directory with a store of its own, in which commands are timed."""

    folder: Path
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        """The environment of the commands: a store and temporary files of this place."""
        (self.folder / "tmp").mkdir(exist_ok=True)
        own = {"XDG_CACHE_HOME": str(self.folder / "cache"), "TMPDIR": str(self.folder / "tmp")}
        return {**os.environ, **own, **self.variables}

    def start(self, command: Sequence[str]) -> subprocess.Popen[bytes]:
        """Start a command, whose output is thrown away."""
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def timed(self, command: Sequence[str]) -> Spent:
        """Return what one command took; its output is thrown away.

        Raises:
            subprocess.CalledProcessError: it failed.
        """
        begun = time.perf_counter()
        process = self.start(command)
        _, status, usage = os.wait4(process.pid, 0)
        wall_s = time.perf_counter() - begun
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, list(command))
        return Spent(
            wall_s=wall_s, cpu_s=usage.ru_utime + usage.ru_stime, peak_bytes=usage.ru_maxrss * 1024
        )


def interleaved(
    place: Place, commands: Mapping[str, Sequence[str]], rounds: int
) -> dict[str, list[Spent]]:
    """Return what each command took in *rounds* rounds; in turns, so that drift meets all alike.

    Raises:
        subprocess.CalledProcessError: a command failed.
    """
    found: dict[str, list[Spent]] = {label: [] for label in commands}
    for number in range(rounds):
        print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
        for label, command in commands.items():
            found[label].append(place.timed(command))
    return found


def wall_s(spent: Sequence[Spent]) -> float:
    """Return the median wall time in seconds."""
    return statistics.median(one.wall_s for one in spent)


def machine(*distributions: str) -> str:
    """Return one line on the machine, Python and the versions of *distributions*."""
    versions = ", ".join(f"{one} {importlib.metadata.version(one)}" for one in distributions)
    model, cores = cpu_target()["model"], len(os.sched_getaffinity(0))
    return f"{platform.machine()}, {model}, {cores} cores, Python {platform.python_version()}, " + (
        versions
    )


def table(spent: Mapping[str, Sequence[Spent]], unit: str) -> str:
    """Return medians as Markdown: wall time, its ratio to the command *unit*, CPU time, memory."""
    base = wall_s(spent[unit])
    lines = [f"| command | seconds | / {unit} | CPU s | peak MB |", "|---|--:|--:|--:|--:|"]
    for label, found in spent.items():
        cpu = statistics.median(one.cpu_s for one in found)
        peak = max(one.peak_bytes for one in found) / 1e6
        seconds = wall_s(found)
        lines.append(f"| {label} | {seconds:.2f} | {seconds / base:.2f} | {cpu:.2f} | {peak:.0f} |")
    return "\n".join(lines)
