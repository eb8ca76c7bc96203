"""The ``orchestrate`` command as the check runs it: one workplace, one target, a time limit."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.command import Built, Ran, Workplace
from tests.gpu.rows import OutOfTimeError, Rows

REPOSITORY: Final = Path(__file__).parents[2]
CONFIGURATIONS: Final = Path(__file__).parent / "conf"
#: Networks with random weights are judged by looser limits, see conf/compare/random_weights.yaml.
TRAINED: Final = ("digits", "minilm")
QUICK: Final = (
    "benchmark.warmup_ms=50",
    "benchmark.measure_ms=150",
    "benchmark.shapes=[opt,min,max]",
    "benchmark.beside=none",
    "calibration.count=64",
)
_KILL_AFTER_S: Final = 20
_TIMED_OUT: Final = (124, 137)


@dataclass(frozen=True, kw_only=True)
class Timed:
    """How one command ended, and how many seconds it took."""

    ran: Ran
    seconds: float

    @property
    def built(self) -> Built:
        """The results that ``build --json`` printed.

        Raises:
            AssertionError: it printed none.
        """
        if not self.ran.out.startswith("{"):
            raise AssertionError(f"exit code {self.ran.code}, no results:\n{self.ran.text[-1500:]}")
        return Built(**vars(self.ran), modules=frozenset(), peak_kib=0)


@dataclass(frozen=True, kw_only=True)
class Command:
    """Runs ``orchestrate`` for the toolchain.

    Attributes:
        place: Working directory, store and temporary folder; they stay from visit to visit.
        rows: Tells how much time is left.
        toolchain: The words of ``toolchain.command``; empty: leave the toolchain as it is.
        target: The ``target`` group.
        more: Further overrides of every build.
    """

    place: Workplace
    rows: Rows
    toolchain: Sequence[str] = ()
    target: str = "trt86"
    more: Sequence[str] = field(default=())

    def words(self, model: str, *overrides: str) -> list[str]:
        """Return the words of a build of *model*; later overrides win."""
        words = [f"model={model}", f"target={self.target}", "exporter=torchscript"]
        if self.toolchain:
            quoted = ",".join("'" + word.replace("'", "\\'") + "'" for word in self.toolchain)
            words += ["toolchain=trt86", f"toolchain.command=[{quoted}]"]
        if model not in TRAINED:
            words.append("compare=random_weights")
        words += [*QUICK, *self.more]
        given = {word.partition("=")[0] for word in overrides}
        kept = [word for word in words if word.partition("=")[0] not in given]
        return ["--config-dir", str(CONFIGURATIONS), *kept, *overrides]

    def build(
        self,
        model: str,
        *overrides: str,
        sweep: bool = False,
        flags: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
    ) -> Timed:
        """Build variants of *model*, whether they pass or not."""
        words = [*(["-m"] if sweep else []), *flags, *self.words(model, *overrides)]
        return self.run("build", "--json", "-q", *words, env=env)

    def run(self, *words: str, env: Mapping[str, str] | None = None) -> Timed:
        """Run ``orchestrate WORDS`` as long as there is time.

        Raises:
            OutOfTimeError: it was ended because the visit's time is up.
        """
        limit = self.rows.left_s
        if limit <= 0:
            raise OutOfTimeError
        wrapper = ["timeout", "-s", "TERM", "-k", str(_KILL_AFTER_S), f"{limit:.0f}"]
        begun = time.monotonic()
        ran = self.place.run(*words, env=self.environment(env), wrapper=wrapper)
        seconds = time.monotonic() - begun
        if ran.code in _TIMED_OUT and seconds >= limit - 1:
            raise OutOfTimeError
        return Timed(ran=ran, seconds=round(seconds, 2))

    def start(self, *words: str, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        """Start ``orchestrate WORDS`` and do not wait for it."""
        return self.place.start(*words, env=self.environment(env))

    def finished(self, process: subprocess.Popen[str]) -> Ran:
        """Wait for what :meth:`start` returned.

        Raises:
            OutOfTimeError: the visit's time is up; the process was ended.
        """
        try:
            out, err = process.communicate(timeout=max(self.rows.left_s, 0.1))
        except subprocess.TimeoutExpired:
            process.terminate()
            process.communicate()
            raise OutOfTimeError from None
        return Ran(code=process.returncode, out=out, err=err)

    def python(self, script: str, *arguments: str) -> str:
        """Run a script of this folder in the toolchain's interpreter; return what it printed.

        Raises:
            OutOfTimeError: the visit's time is up.
            RuntimeError: it failed; with the last it said.
        """
        try:
            ended = subprocess.run(
                self.script(script, *arguments),
                capture_output=True,
                text=True,
                check=False,
                timeout=max(self.rows.left_s, 0.1),
            )
        except subprocess.TimeoutExpired:
            raise OutOfTimeError from None
        if ended.returncode:
            raise RuntimeError(f"{script} ended with {ended.returncode}: {ended.stderr[-1500:]}")
        return ended.stdout

    def script(self, script: str, *arguments: str) -> list[str]:
        """Return the words that run a script of this folder in the toolchain's interpreter."""
        interpreter = list(self.toolchain) or [sys.executable]
        return [*interpreter, str(Path(__file__).with_name(script)), *arguments]

    @contextlib.contextmanager
    def hogged(self, free_mib: int) -> Iterator[int]:
        """Leave about *free_mib* of the GPU's memory free in the block; give the bytes taken."""
        hog = subprocess.Popen(
            self.script("hog.py", str(free_mib)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert hog.stdout is not None
        assert hog.stdin is not None
        try:
            yield int(hog.stdout.readline())
        finally:
            hog.stdin.close()
            hog.wait()

    def environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return what the command's environment has besides the workplace's own."""
        path = [str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
        # Compiled files are kept: they are part of what an unchanged build costs.
        return {
            "PYTHONPATH": os.pathsep.join(path),
            "PYTHONDONTWRITEBYTECODE": "",
            **(extra or {}),
        }


def workplace(root: Path) -> Workplace:
    """Return the workplace below *root*, made on the first visit."""
    found = Workplace(directory=root / "work", cache=root / "cache", temporary=root / "tmp")
    for path in (found.directory, found.cache, found.temporary):
        path.mkdir(parents=True, exist_ok=True)
    return found
