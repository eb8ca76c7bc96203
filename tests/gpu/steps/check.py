"""What every step of the check has: the command, where files go, and what was asked for."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.command import Built
from tests.gpu.commands import Command, Timed
from tests.gpu.rows import Rows

Json = dict[str, Any]
#: Networks that TensorRT's own calibrators serve too: they find ranges for convolutions.
CONVOLUTIONAL = ("digits", "resnet50")


@dataclass(frozen=True, kw_only=True)
class Check:
    """One visit.

    Attributes:
        command: Runs ``orchestrate``.
        rows: The rows so far.
        work: Where files go; the same on every visit to a machine.
        rounds: How often two things that are compared take turns.
        patience_s: How long after its start a toolchain's process is sure to be building.
    """

    command: Command
    rows: Rows
    work: Path
    rounds: int = 5
    patience_s: float = 4.0

    def variant(self, model: str, *overrides: str) -> Json:
        """Return the manifest of a variant that passes, built if it is not there yet.

        Raises:
            AssertionError: it does not pass.
        """
        built = self.command.build(model, *overrides).built
        (found,) = built.variants
        if found["status"] != "passed":
            raise AssertionError(f"{found['name']} {found['status']}: {failures(built)}")
        return dict(found)


def new_engine() -> str:
    """Return an override that makes an engine of its own and changes nothing that matters."""
    return f"++target.workspace_mib={4096 + secrets.randbelow(4096)}"


def failures(built: Built) -> list[str]:
    """Return why variants failed."""
    return [one["message"] for variant in built.variants for one in variant["failures"]]


def engine_of(manifest: Mapping[str, Any]) -> Path:
    """Return the plan in the variant's experiment directory.

    Raises:
        FileNotFoundError: there is none.
    """
    directory = Path(manifest["directory"]) / "artifacts"
    for plan in sorted(directory.glob("*/engine.plan")):
        return plan.resolve()
    raise FileNotFoundError(f"no engine.plan below {directory}")


def told(timed: Timed) -> Json:
    """Return how a command ended, for a row: exit code, seconds, and what it said last."""
    lines = [line for line in timed.ran.err.splitlines() if line.strip()]
    events = [json.loads(line) for line in lines if line.startswith("{")]
    errors = [one for event in events for one in event.get("failures", [event])]
    said = [f"{one['where']}: {one['message']}" for one in errors if "where" in one]
    return {
        "code": timed.ran.code,
        "command_s": timed.seconds,
        "message": "\n".join(said or lines[-3:])[:1200],
    }
