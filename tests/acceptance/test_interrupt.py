"""Ctrl-C in the middle: what was finished is kept, nothing keeps running, the next run goes on."""

from __future__ import annotations

import json
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
    with edited.running(*words) as process:
        assert process.stdout is not None
        read_until(process.stdout, "✓ samples")
        read_until(process.stdout, "… export")  # its factory sleeps until it is ended
        workers = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        gone, alive = psutil.wait_procs(workers, timeout=30)

    assert process.returncode == INTERRUPTED
    assert "1 finished actions are kept; the same command goes on from there" in err
    assert "Traceback" not in out + err
    assert workers
    assert (len(gone), alive) == (len(workers), [])
    assert edited.whole()
    assert list((edited.store / "tmp").iterdir()) == []
    manifests = list((edited.directory / "outputs").rglob("manifest.json"))
    assert [json.loads(path.read_text())["status"] for path in manifests] == ["interrupted"]
    states = {
        one["stage"]: one["state"] for one in edited.run("plan", "--json", *words).json()["actions"]
    }
    assert (states["samples"], states["export"]) == ("cached", "runs")


def test_a_hangup_that_nohup_ignores_ends_nothing(edited: Workplace) -> None:
    command = [sys.executable, "-m", "orchestrator.cli.main", "model=waits", "benchmark=none"]
    with subprocess.Popen(
        ["sh", "-c", 'trap "" HUP; exec "$0" "$@"', *command, "model.samples.seed=8"],
        cwd=edited.directory,
        env=edited.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        read_until(process.stdout, "… export")
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGINT)

        assert process.wait() == INTERRUPTED  # and not 128 + SIGHUP
