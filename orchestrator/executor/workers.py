"""The actions of one run that are at work: started, watched, ended in time."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from orchestrator.executor.claims import Claim
from orchestrator.executor.ending import Running
from orchestrator.executor.memory import Memory
from orchestrator.executor.needs import modules_for
from orchestrator.executor.outcome import Listener
from orchestrator.executor.pool import Ended, Pool, Progressed, Started
from orchestrator.executor.request import request_for
from orchestrator.executor.worker import REQUEST
from orchestrator.plan.graph import Action
from orchestrator.plan.resolve import Resolved
from orchestrator.store.results import Result
from orchestrator.store.store import Store, explained

_LONGEST_S: Final = 3600.0  # epoll counts no further than 24 days


class Workers:
    """Slots for running actions."""

    def __init__(
        self,
        pool: Pool,
        store: Store,
        listener: Listener,
        memory: Memory,
        *,
        scratch: Path,
        base: Path,
        slots: int,
        timeout_s: float | None,
    ) -> None:
        """Nothing is started yet.

        Args:
            pool: Runs them.
            store: Where their inputs lie.
            listener: Is told of their progress.
            memory: What they may need together.
            scratch: Where they get their directories.
            base: The working directory.
            slots: How many run at a time.
            timeout_s: One that takes longer is ended, in seconds.
        """
        self._pool, self._store, self._listener, self._memory = pool, store, listener, memory
        self._scratch, self._base = scratch, base
        self._slots, self._timeout_s = slots, timeout_s
        self._running: dict[int, Running] = {}
        self._ids: set[str] = set()
        self._keys: set[str] = set()

    def __contains__(self, action: Action) -> bool:
        return action.id in self._ids

    def __len__(self) -> int:
        return len(self._running)

    @property
    def free(self) -> bool:
        """Whether another one may be started."""
        alone = any(running.alone for running in self._running.values())
        return len(self._running) < self._slots and not alone

    def makes(self, key: str) -> bool:
        """Whether what has *key* is being made here."""
        return key in self._keys

    def start(
        self,
        action: Action,
        resolved: Resolved,
        results: Mapping[str, Result],
        claim: Claim,
        machine: list[int],
        *,
        alone: bool,
    ) -> None:
        """Start *action*.

        Args:
            action: What to run.
            resolved: Its key.
            results: By action id, those of its inputs among them.
            claim: Its locks, which are to be released when it has ended.
            machine: Descriptors of further locks that must live as long as the work.
            alone: Nothing else runs until it has ended.

        Raises:
            WorkerLostError: the server is gone.
            StoreError: the store cannot be written.
        """
        directory = self._scratch / f"{action.stage}-{action.id[:12]}-{time.time_ns()}"
        request = request_for(action, resolved, self._store, results, self._base, claim.device)
        with explained(self._store.root):
            directory.mkdir()
            (directory / REQUEST).write_text(json.dumps(request))
        held = [*(lock.descriptor for lock in claim.locks), *machine]
        worker = self._pool.submit(directory, modules_for([action]), held)
        self._running[worker] = Running(
            action=action, resolved=resolved, claim=claim, directory=directory, alone=alone
        )
        self._ids.add(action.id)
        self._keys.add(resolved.key)
        self._memory.take(action)

    def wait(self, timeout_s: float | None) -> list[tuple[Running, Ended]]:
        """Return those that ended, after at most *timeout_s* seconds (None: as long as it takes).

        Raises:
            WorkerLostError: the server ended unexpectedly.
        """
        now = time.monotonic()
        limits = [] if timeout_s is None else [timeout_s]
        if self._timeout_s is not None:
            begun = [one.begun for one in self._running.values() if not one.timed_out]
            limits += [max(0.0, one + self._timeout_s - now) for one in begun]
            limits.append(_LONGEST_S)
        found: list[tuple[Running, Ended]] = []
        for event in self._pool.poll(min(limits, default=None)):
            running = self._running.get(event.id)
            match event:
                case _ if running is None:
                    pass
                case Started(at=at):
                    running.begun = at  # imports are not its time
                case Progressed(done=done, text=text):
                    self._listener.progressed(running.action, done, text)
                case Ended(at=at):
                    running.seconds = at - running.begun
                    found.append((self._forget(event.id), event))
        self._end_overdue()
        return found

    def lose(self) -> list[Running]:
        """Return all that ran when the server was lost; their locks are released."""
        lost = [self._forget(worker) for worker in list(self._running)]
        for running in lost:
            running.claim.release()
        return lost

    def _forget(self, worker: int) -> Running:
        running = self._running.pop(worker)
        self._ids.discard(running.action.id)
        self._keys.discard(running.resolved.key)
        self._memory.give(running.action)
        return running

    def _end_overdue(self) -> None:
        now = time.monotonic()
        for worker, running in self._running.items():
            if self._timeout_s is not None and now - running.begun >= self._timeout_s:
                running.timed_out = True
                self._pool.kill(worker)
