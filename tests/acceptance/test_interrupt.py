"""Ctrl-C in the middle: what was finished is kept, nothing keeps running, the next run goes on."""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import IO

import psutil

from tests.command import Workplace

INTERRUPTED = 130


def read_until(stream: IO[str], text: str) -> str:
    seen = ""
    for line in stream:
        seen += line
        if text in line:
            return seen
    raise AssertionError(f"never said '{text}':\n{seen}")


def test_ctrl_c_in_the_middle(edited: Workplace) -> None:
    words = ["model=waits", "benchmark=none", "model.samples.seed=7"]
    process = subprocess.Popen(
        [sys.executable, "-m", "orchestrator.cli.main", *words],
        cwd=edited.directory,
        env=edited.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    read_until(process.stdout, "✓ samples")
    read_until(process.stdout, "… export")  # its factory sleeps until it is ended
    workers = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    gone, alive = psutil.wait_procs(workers, timeout=30)

    assert process.returncode == INTERRUPTED
    assert "1 finished actions are kept" in err
    assert "Traceback" not in out + err
    assert workers
    assert (len(gone), alive) == (len(workers), [])
    assert edited.whole()
    states = {
        one["stage"]: one["state"] for one in edited.run("plan", "--json", *words).json()["actions"]
    }
    assert (states["samples"], states["export"]) == ("cached", "runs")
