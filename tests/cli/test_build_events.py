"""``--json``: standard error has one event a line, errors included."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli.main import main
from orchestrator.errors import StageError
from orchestrator.executor.outcome import Finished
from orchestrator.plan.secrets import Secrets
from orchestrator.report.events import EventStream
from tests.plan.variants import graph
from tests.report.given import Given


def events(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_what_a_listener_is_told_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    planned = graph()
    action, other, *_ = planned.actions.values()
    (variant,) = planned.variants
    variant.name = "token=correct-horse"
    stream = EventStream(Secrets({"TOKEN": "correct-horse"}).hide)
    stream.planned(planned, Given({action.stage: 2.0}), 3)
    stream.started(action, [variant])
    for done in (0.25, 0.5):
        stream.progressed(action, done, "batch of correct-horse")
    stream.waiting(other, "the GPU is in use")
    error = StageError("no correct-horse", where="x", hint="feed it")
    stream.finished(action, [variant], Finished(status="failed", error=error, key="k", seconds=1.5))
    planning, started, progressed, waiting, finished = events(capsys)
    hidden = Secrets({"TOKEN": "correct-horse"}).hide_text("correct-horse")

    assert all(re.fullmatch(r"[\d-]+T[\d:.]+\+00:00", one["time"]) for one in (planning, finished))
    assert {name: planning[name] for name in ("event", "actions", "variants", "workers")} == {
        "event": "planned",
        "actions": len(planned.actions),
        "variants": 1,
        "workers": 3,
    }
    assert (started["event"], started["stage"], started["role"]) == (
        "started",
        action.stage,
        variant.steps[0].role,
    )
    assert (started["estimated_seconds"], started["variants"]) == (2.0, [f"token={hidden}"])
    assert (progressed["event"], progressed["done"]) == ("progressed", 0.25)
    assert progressed["text"] == f"batch of {hidden}"
    assert (waiting["event"], waiting["reason"]) == ("waiting", "the GPU is in use")
    assert (finished["event"], finished["status"], finished["key"]) == ("finished", "failed", "k")
    assert (finished["seconds"], finished["retries"]) == (1.5, 0)
    assert finished["error"] == {"message": f"no {hidden}", "where": "x", "hint": "feed it"}


@pytest.mark.parametrize(
    ("words", "where", "message", "hint"),
    [
        (["precision=fp61"], "precision", "fp61", "fp16"),
        (["--rebuild", "exprot"], "", "exprot", "export"),
        (["--jsno"], "orchestrate build", "--jsno", "--json"),
        (["biuld"], "", "'biuld' is neither", "build"),
        (["plan", "precision=fp61"], "precision", "fp61", "fp16"),
    ],
)
def test_a_wrong_command_is_an_event(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    where: str,
    message: str,
    hint: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*words, "--json"]) == 2
    (event,) = events(capsys)

    assert (event["event"], where in event["where"]) == ("error", True)
    assert message in event["message"]
    assert hint in event["hint"]
