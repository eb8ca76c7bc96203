"""Starts the command many times from a process that has imported it: a start costs a fork.

``python -m tests.chaos.host DIRECTORY`` reads a JSON line ``[log, word, ...]`` for each command,
answers with its process number at once and with its exit code (negative: a signal) at its end.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import psutil

from tests.command import Workplace
from tests.executor.processes import PATIENCE_S


class Command:
    """One started command."""

    def __init__(self, host: subprocess.Popen[str], pid: int) -> None:
        self._host = host
        self._code: int | None = None
        self.pid = pid

    def ended(self, within_s: float = 0.0) -> bool:
        """Whether it ends within *within_s* seconds."""
        output = self._host.stdout
        if output is None:
            raise AssertionError("started with pipes")
        if self._code is None and select.select([output], [], [], within_s)[0]:
            self._code = int(output.readline())
        return self._code is not None

    def code(self) -> int:
        """Wait for its end and return its exit code, negative for a signal."""
        if not self.ended(PATIENCE_S) or self._code is None:
            raise AssertionError(f"process {self.pid} does not end")
        return self._code

    def server(self) -> list[int]:
        """Return the process number of its warm server, if there is one."""
        return _children(self.pid)

    def workers(self) -> list[int]:
        """Return the process numbers of its workers."""
        return [worker for server in self.server() for worker in _children(server)]


class Host:
    """Starts commands in one workplace, one after the other."""

    def __init__(self, place: Workplace, process: subprocess.Popen[str]) -> None:
        self._place = place
        self._process = process

    def start(self, log: Path, *words: str) -> Command:
        """Start ``orchestrate WORDS``; what it prints goes to *log*."""
        if self._process.stdin is None:
            raise AssertionError("started with pipes")
        self._process.stdin.write(json.dumps([str(log), *words]) + "\n")
        self._process.stdin.flush()
        return Command(self._process, _number(self._process))

    def left(self) -> list[int]:
        """Return all processes that the commands started and that still run."""
        return left(self._place, besides=self._process.pid)


def left(place: Workplace, *, besides: int = 0) -> list[int]:
    """Return the processes that were started for *place*, but one, and that still run."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            ours = process.environ().get("TMPDIR") == str(place.temporary)
            if ours and process.pid != besides and not _is_zombie(process):
                found.append(process.pid)
    return found


@contextlib.contextmanager
def hosted(place: Workplace) -> Iterator[Host]:
    """Give a host of commands in *place*; it and what they left ends with the block."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.chaos.host", str(place.directory)],
        env=place.environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    ) as process:
        host = Host(place, process)
        try:
            yield host
        finally:
            for pid in host.left():
                with contextlib.suppress(psutil.Error):
                    psutil.Process(pid).kill()
            process.kill()


def _number(process: subprocess.Popen[str]) -> int:
    if process.stdout is None:
        raise AssertionError("started with pipes")
    return int(process.stdout.readline())


def _children(pid: int) -> list[int]:
    try:
        found = psutil.Process(pid).children()
        return [child.pid for child in found if not _is_zombie(child)]
    except psutil.Error:
        return []


def _is_zombie(process: psutil.Process) -> bool:
    return bool(process.status() == psutil.STATUS_ZOMBIE)


def _serve(directory: str) -> None:
    import orchestrator.cli.build
    import orchestrator.report.table
    import orchestrator.session  # noqa: F401  # what every command would import

    os.chdir(directory)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            _become(json.loads(line))
        print(pid, flush=True)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _become(request: list[str]) -> NoReturn:
    from orchestrator.cli.main import main

    log, *words = request
    code = 70
    try:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        null = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((null, 0), (output, 1), (output, 2)):
            os.dup2(source, target)
        code = main(words)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


if __name__ == "__main__":
    _serve(sys.argv[1])
