"""The real command in a child process: its own working directory, store and temporary folder."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HEAVY = ("numpy", "onnx", "onnxruntime", "onnxscript", "onnxsim", "torch")

# Writes the names of all imported modules and the peak memory in KiB to the file named first. Not
# ru_maxrss: that would begin with the peak of the process that started this one.
_WATCHED = """
import json, sys
place = sys.argv.pop(1)
from orchestrator.cli.main import main
try:
    code = main()
except SystemExit as exc:
    code = exc.code or 0
lines = open("/proc/self/status").read().splitlines()
peak = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
with open(place, "w") as file:
    json.dump({"modules": sorted(sys.modules), "peak_kib": peak}, file)
sys.exit(code)
"""


@dataclass(frozen=True, kw_only=True)
class Ran:
    """How one command ended and what it printed."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        """Everything it printed."""
        return self.out + self.err

    @property
    def events(self) -> list[dict[str, Any]]:
        """What a build with ``--json`` wrote to standard error: events, and nothing else."""
        return [json.loads(line) for line in self.err.splitlines()]

    def json(self) -> Any:
        """What it printed on standard output, read as JSON."""
        return json.loads(self.out)


@dataclass(frozen=True, kw_only=True)
class Watched(Ran):
    """A command with what its own process (not its workers) imported and needed."""

    modules: frozenset[str]
    peak_kib: int

    @property
    def heavy(self) -> list[str]:
        """The heavy libraries that it imported."""
        return [name for name in HEAVY if name in self.modules]


@dataclass(frozen=True, kw_only=True)
class Workplace:
    """A working directory, and a store and temporary folder that nobody else uses."""

    directory: Path
    cache: Path
    temporary: Path

    @classmethod
    def at(cls, root: Path) -> Workplace:
        """Make an empty one below *root*."""
        place = cls(directory=root / "work", cache=root / "cache", temporary=root / "tmp")
        for path in (place.directory, place.cache, place.temporary):
            path.mkdir(parents=True)
        return place

    def copied(self, root: Path) -> Workplace:
        """Return a copy below *root* whose store may be damaged and whose files may be edited."""
        place = Workplace.at(root)
        for source, target in ((self.directory, place.directory), (self.cache, place.cache)):
            shutil.copytree(
                source, target, symlinks=True, dirs_exist_ok=True, ignore=_ignored(source)
            )
        return place

    @property
    def store(self) -> Path:
        """The store's directory."""
        return self.cache / "orchestrate"

    def environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return the environment of the commands."""
        site = (
            self.directory / "site"
        )  # what stands for installed distributions, where there is one
        return {
            **os.environ,
            **({"PYTHONPATH": str(site)} if site.is_dir() else {}),
            "XDG_CACHE_HOME": str(self.cache),
            "TMPDIR": str(self.temporary),
            "COLUMNS": "200",
            "PYTHONDONTWRITEBYTECODE": "1",
            **(extra or {}),
        }

    def run(
        self, *words: str, env: Mapping[str, str] | None = None, wrapper: Sequence[str] = ()
    ) -> Ran:
        """Run ``orchestrate WORDS`` and wait for its end."""
        ended = subprocess.run(
            [*wrapper, sys.executable, "-m", "orchestrator.cli.main", *words],
            cwd=self.directory,
            env=self.environment(env),
            capture_output=True,
            text=True,
            check=False,
        )
        return Ran(code=ended.returncode, out=ended.stdout, err=ended.stderr)

    def start(self, *words: str, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        """Start ``orchestrate WORDS`` with its output in pipes and do not wait for it."""
        return subprocess.Popen(
            [sys.executable, "-m", "orchestrator.cli.main", *words],
            cwd=self.directory,
            env=self.environment(env),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def running(
        self, *words: str, env: Mapping[str, str] | None = None
    ) -> contextlib.AbstractContextManager[subprocess.Popen[str]]:
        """Start ``orchestrate WORDS``; it is killed at the block's end if it still runs."""
        return ending(self.start(*words, env=env))

    def watch(self, *words: str, env: Mapping[str, str] | None = None) -> Watched:
        """Run ``orchestrate WORDS`` and report what its process imported."""
        seen = self.temporary / "seen.json"
        ended = subprocess.run(
            [sys.executable, "-c", _WATCHED, str(seen), *words],
            cwd=self.directory,
            env=self.environment(env),
            capture_output=True,
            text=True,
            check=False,
        )
        found = json.loads(seen.read_text())
        return Watched(
            code=ended.returncode,
            out=ended.stdout,
            err=ended.stderr,
            modules=frozenset(found["modules"]),
            peak_kib=found["peak_kib"],
        )

    def build(self, *words: str, env: Mapping[str, str] | None = None) -> Built:
        """Run ``orchestrate build --json WORDS``, which also gives the manifests."""
        ran = self.watch("build", "--json", *words, env=env)
        if not ran.out.startswith("{"):
            raise AssertionError(f"no results:\n{ran.text}")
        return Built(**vars(ran))

    def whole(self) -> bool:
        """Whether every byte of the store is what its name says."""
        return self.run("cache", "verify").code == 0


@dataclass(frozen=True, kw_only=True)
class Built(Watched):
    """The results of one build."""

    @property
    def results(self) -> dict[str, Any]:
        """What ``--json`` printed."""
        found: dict[str, Any] = self.json()
        return found

    @property
    def variants(self) -> list[dict[str, Any]]:
        """The manifest of each variant, with its ``directory``."""
        return list(self.results["variants"])

    def variant(self, word: str) -> dict[str, Any]:
        """Return the one variant whose name holds *word*."""
        (found,) = [one for one in self.variants if word in one["name"].split(",")]
        return found

    def statuses(self) -> dict[str, str]:
        """Return the status of each role, over all variants; the first that ran it counts."""
        return {
            action["role"]: action["status"]
            for variant in reversed(self.variants)
            for action in variant["actions"]
        }

    def ran(self) -> set[str]:
        """Return the stages that ran."""
        return {
            action["stage"]
            for variant in self.variants
            for action in variant["actions"]
            if action["status"] == "ran"
        }


@contextlib.contextmanager
def ending(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    """Kill a process at the block's end if it still runs."""
    with process:
        try:
            yield process
        finally:
            process.kill()


def action(manifest: Mapping[str, Any], role: str) -> dict[str, Any]:
    """Return the entry of *role* in a manifest."""
    (found,) = [entry for entry in manifest["actions"] if entry["role"] == role]
    return dict(found)


def _ignored(root: Path) -> Any:
    def names(folder: str, _: list[str]) -> list[str]:
        # Experiment directories are linked to the first store; locks and the like are not copied.
        return ["outputs"] if Path(folder) == root else []

    return names
