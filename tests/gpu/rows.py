"""Rows of a check: one JSON line for every step that was done, over as many visits as it takes.

A visit to a GPU machine is short and may end at any time. So a step whose row is in the file is not
repeated, no step starts after the budget is spent, and a step that ran out of time leaves no row:
the next visit does it.
"""

from __future__ import annotations

import json
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from orchestrator.errors import OrchestrateError

Row = dict[str, Any]

#: A step that has begun may go on for so long after the budget is spent, in seconds.
GRACE_S: Final = 30.0
_WEEK_S: Final = 7 * 24 * 3600.0
_SHOWN_CHARACTERS: Final = 500
_SHOWN_IN_TABLE: Final = 160


class OutOfTimeError(Exception):
    """The visit's time is up: what was being done is for the next visit."""


@dataclass
class Rows:
    """The rows so far, and which steps are to be done now.

    Attributes:
        path: The file of JSON lines; it is appended to.
        only: Do only steps whose names hold one of these; empty: all.
        again: Do selected steps although they have a row.
        budget_s: Start no step after so many seconds.
        hidden: What must not be written down (paths of a machine), and what stands for it.
        clock: Seconds; for tests.
    """

    path: Path
    only: Sequence[str] = ()
    again: bool = False
    budget_s: float = float("inf")
    hidden: Mapping[str, str] = field(default_factory=dict)
    clock: Callable[[], float] = time.monotonic
    done: dict[str, Row] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._begun = self.clock()
        self._spent = False
        self.done |= read_rows(self.path)

    @property
    def left_s(self) -> float:
        """Seconds until a step that has begun is ended; a week at most."""
        return min(self._begun + self.budget_s + GRACE_S - self.clock(), _WEEK_S)

    def wanted(self, name: str) -> bool:
        """Return whether the step *name* is to be done now."""
        if self.only and not any(part in name for part in self.only):
            return False
        return self.again or name not in self.done

    def step(self, name: str, action: Callable[[], Mapping[str, Any]]) -> None:
        """Do a step and keep its row; a failure is a row too.

        *action* returns the row's fields; ``ok`` false is a step that was not as expected.
        """
        if not self.wanted(name) or self._spent:
            return
        begun = self.clock()
        if begun - self._begun >= self.budget_s:
            self._spend(name)
            return
        row: Row = {"step": name}
        try:
            row |= {"ok": True, **action()}
        except OutOfTimeError:
            self._spend(name)
            return
        except OrchestrateError as exc:
            row |= {"ok": False, "error": exc.render()}
            row["log"] = [str(line) for line in getattr(exc, "log", ())][-12:]
        except Exception as exc:  # noqa: BLE001  # a visit goes on after any failure
            row |= {"ok": False, "error": f"{type(exc).__name__}: {exc}"}
            row["traceback"] = traceback.format_exc().splitlines()[-8:]
        row["seconds"] = round(self.clock() - begun, 2)
        self._keep(row)

    def _keep(self, row: Row) -> None:
        text = json.dumps(row)
        for secret, shown in self.hidden.items():
            text = text.replace(json.dumps(secret)[1:-1], shown)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(text + "\n")
        kept: Row = json.loads(text)
        self.done[kept["step"]] = kept
        shown_row = {name: value for name, value in kept.items() if name not in ("log",)}
        print(json.dumps(shown_row)[:_SHOWN_CHARACTERS], flush=True)

    def _spend(self, name: str) -> None:
        self._spent = True
        print(f"no time is left for '{name}': it is for the next visit", flush=True)

    def summary(self) -> int:
        """Print one line a row; return how many are not what was expected."""
        for name, row in self.done.items():
            said = str(row.get("shown") or row.get("message") or row.get("error") or "")
            line = " ".join(said.split())[:_SHOWN_IN_TABLE]
            print("ok  " if row["ok"] else "FAIL", name, f"{row['seconds']:.0f} s", line)
        wrong = sum(not row["ok"] for row in self.done.values())
        print(f"{len(self.done) - wrong} as expected, {wrong} not", file=sys.stderr)
        return wrong


def read_rows(path: Path) -> dict[str, Row]:
    """Return the rows in *path* by step, the last one of each; none when there is no file."""
    if not path.exists():
        return {}
    lines = path.read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines if line.strip()]
    return {row["step"]: row for row in rows}
