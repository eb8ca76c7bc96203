"""The local executor: runs what is not cached, each action once, until every variant is settled.

An action is considered when its inputs are known and some living variant has passed the gates
before it. Of those that must run, the one with the longest path behind it starts first, as far as
slots, memory and locks allow. Equal keys meet: the second action waits for the first one's end, or
at the key's lock for another process, and then finds the result. A failure settles the variants
that wanted the action; the others go on.
"""

from __future__ import annotations

import functools
import shutil
import signal
import time
from collections.abc import Collection
from pathlib import Path
from typing import Final

from orchestrator.errors import OrchestrateError, StoreError, WorkerLostError
from orchestrator.executor.cgroups import Kills
from orchestrator.executor.claims import Claim, Claims
from orchestrator.executor.costs import Cost, Costs
from orchestrator.executor.durations import Durations
from orchestrator.executor.ending import Endings, Running
from orchestrator.executor.failed_before import FailedBefore
from orchestrator.executor.machine import cores
from orchestrator.executor.memory import Memory
from orchestrator.executor.needs import modules_for
from orchestrator.executor.outcome import Finished, Listener, Outcome, Status
from orchestrator.executor.pool import Ended, Pool
from orchestrator.executor.schedule import Ready, Schedule, Verdict, paths
from orchestrator.executor.settling import Settling
from orchestrator.executor.workers import Workers
from orchestrator.plan.graph import Action, Graph
from orchestrator.plan.observed import Observer
from orchestrator.plan.resolve import Resolved, Resolver
from orchestrator.plan.secrets import Secrets
from orchestrator.stages.catalogue import stage as find_stage
from orchestrator.store.results import Result
from orchestrator.store.store import Store

_LOCK_POLL_S: Final = 0.05


class LocalExecutor:
    """Runs one graph on this machine."""

    def __init__(
        self,
        graph: Graph,
        store: Store,
        resolver: Resolver,
        observer: Observer,
        secrets: Secrets,
        pool: Pool,
        listener: Listener,
        *,
        scratch: Path,
        base: Path,
        workers: int,
        memory_bytes: int | None = None,
        timeout_s: float | None = None,
        rebuild: Collection[str] = (),
        retries: int = 0,
        retry_failed: bool = False,
        fail_fast: bool = False,
    ) -> None:
        """Take a planned graph and what runs it.

        Args:
            graph: What to run.
            store: Where results and failures are kept.
            resolver: Computes keys.
            observer: Tells whether what user code had touched is still the same.
            secrets: Hidden in all that is kept.
            pool: Runs the workers.
            listener: Is told what happens.
            scratch: Where workers get their directories.
            base: The working directory.
            workers: How many run at a time.
            memory_bytes: What they may need together; None: 80 % of what is available.
            timeout_s: An action that takes longer is ended, in seconds.
            rebuild: Stages whose stored results and failures are not used.
            retries: How often an action is run again whose worker was lost.
            retry_failed: Failures that are remembered from earlier runs do not count.
            fail_fast: The first failed variant ends the run.
        """
        self._graph, self._store, self._resolver = graph, store, resolver
        self._pool, self._listener = pool, listener
        self._slots, self._rebuild = workers, set(rebuild)
        self._failed_before = FailedBefore(store, secrets, observer, retry_failed=retry_failed)
        self._endings = Endings(
            store,
            resolver,
            secrets,
            self._failed_before,
            timeout_s=timeout_s,
            rebuild=self._rebuild,
            retries=retries,
        )
        self._claims = Claims(store)
        self._wanted = graph.wanted_by()
        self._schedule = Schedule(graph, self._wanted)
        self._settling = Settling(
            graph, self._wanted, self._schedule, listener, fail_fast=fail_fast
        )
        self._results = self._settling.results
        self._costs = Costs(self._wanted, store.index, secrets)
        self._durations = Durations(self._costs)
        self._memory = Memory(self._costs, store.trees, self._results, limit_bytes=memory_bytes)
        self._workers = Workers(
            pool,
            store,
            listener,
            self._memory,
            scratch=scratch,
            base=base,
            slots=workers,
            timeout_s=timeout_s,
        )
        self._resolved: dict[str, Resolved] = {}  # what must run, until it starts or is settled
        self._ready, self._ready_alone = Ready(self._path), Ready(self._path)
        self._parked: dict[str, list[Action]] = {}  # by the key that is being made here
        self._starved: set[str] = set()  # killed for want of memory: run again, alone
        self._waited: set[str] = set()
        self._blocked = False  # something could start but for a lock
        self._built: dict[str, Result] = {}  # in this run, by the locked key and by the result's
        self._kills: Kills | None = None  # since the first start

    def run(self) -> Outcome:
        """Run until every action is settled.

        Returns:
            What became of every action. Ctrl-C is no exception: ``interrupted`` is set then; with
            *fail_fast*, ``stopped`` names the variant that ended the run. Workers may still run in
            both cases: the pool ends them when it is stopped.

        Raises:
            StoreError: the store cannot be written any more; what was finished is kept.
        """
        self._listener.planned(self._graph, self._durations, self._slots)
        try:
            while not self._settling.stopped:
                self._consider()
                self._start_ready()
                if self._schedule.has_candidates:
                    continue
                if not (self._workers or self._ready or self._ready_alone):
                    break
                while not self._wait():
                    pass
        except KeyboardInterrupt:
            self._settling.outcome.interrupted = True
        finally:
            self._claims.release()
        return self._settling.close()

    def _consider(self) -> None:
        """Sort the candidates into settled, ready and not yet (which come back by an event)."""
        for action in self._schedule.candidates():
            if action in self._workers:
                continue
            verdict = self._schedule.verdict(action)
            if verdict is Verdict.SKIP:
                self._settle(action, None)
            elif verdict is Verdict.OPEN and action.id not in self._resolved:
                self._resolve(action, missed=False)
            if self._settling.stopped:
                return

    def _resolve(self, action: Action, *, missed: bool) -> None:
        """Settle *action* from the store, where it was *missed* before, or make it ready."""
        try:
            resolved = self._resolver.resolve(action, self._results)
        except StoreError:
            raise
        except OrchestrateError as error:  # a tool of this stage is missing, say: others go on
            self._settle(action, Finished(status="failed", error=error))
            return
        self._settling.warn(resolved.warning)
        anew = action.stage in self._rebuild or action.id in self._graph.fresh
        result = resolved.result or (self._built.get(resolved.key) if anew else None)
        if result is not None:
            # Built meanwhile: by another process, or here under another name.
            shared = missed or result.key in self._built
            status: Status = "shared" if shared else "cached"
            self._settle(action, Finished(status=status, result=result))
        elif (failed := self._known_failure(action, resolved, anew=anew)) is not None:
            self._settle(action, failed)
        else:
            self._resolved[action.id] = resolved
            self._queue_of(action).add(action)

    def _known_failure(self, action: Action, resolved: Resolved, *, anew: bool) -> Finished | None:
        if anew or self._endings.tried(action):
            return None
        return self._failed_before.find(action, resolved)

    def _queue_of(self, action: Action) -> Ready:
        alone = find_stage(action.stage).exclusive or action.id in self._starved
        return self._ready_alone if alone else self._ready

    @functools.cached_property
    def _paths(self) -> dict[str, float]:
        return paths(self._graph, self._schedule.unsettled(), self._durations.estimate)

    def _path(self, action: Action) -> float:
        """Return the seconds until everything behind *action* is done, from the first start on."""
        return self._paths[action.id]

    def _start_ready(self) -> None:
        """Start what slots, memory and locks allow; what runs alone when nothing else does."""
        self._blocked = False
        self._claims.begin_round()
        self._start_beside()
        for action in self._ready_alone.ordered():
            if self._workers or self._schedule.has_candidates or self._settling.stopped:
                return
            if action in self._ready_alone:
                self._try_start(action)

    def _start_beside(self) -> None:
        """Start what may run beside others; a few pass the first for which there is no room."""
        waits: Action | None = None
        for action in self._ready.ordered():
            if not self._workers.free or self._settling.stopped:
                return
            if action not in self._ready or self._park(action):
                continue
            if self._memory.fits(action):
                self._try_start(action)
                if waits is not None and action in self._workers:
                    self._memory.pass_over(waits)
            else:
                waits = waits or action
            if waits is not None and not self._memory.has_patience(waits):
                return

    def _park(self, action: Action) -> bool:
        """Set *action* aside if the same is being made here, until that ends."""
        key = self._resolved[action.id].key
        if not self._workers.makes(key):
            return False
        self._queue_of(action).discard(action)
        self._parked.setdefault(key, []).append(action)
        return True

    def _try_start(self, action: Action) -> None:
        claim = self._claims.take(action, self._resolved[action.id].key)
        if isinstance(claim, str):
            self._blocked = True
            if action.id not in self._waited:
                self._waited.add(action.id)
                self._listener.waiting(action, claim)
            return
        # Somebody may have finished it between the look-up and the lock.
        self._resolve(action, missed=True)
        if action.id in self._resolved:
            self._start(action, claim)
        else:
            claim.release()

    def _start(self, action: Action, claim: Claim) -> None:
        queue, resolved = self._queue_of(action), self._resolved[action.id]
        alone = queue is self._ready_alone
        try:
            self._begin()
            self._workers.start(
                action, resolved, self._results, claim, self._claims.machine, alone=alone
            )
        except WorkerLostError as error:
            claim.release()
            self._lose_all(error)
            self._close(action, self._endings.lost(action, resolved.key, error))
            return
        queue.discard(action)
        self._listener.started(action, self._wanted[action.id])

    def _begin(self) -> None:
        """What only a run that starts something has to do, once."""
        if self._kills is not None:
            return
        self._kills = Kills()
        if self._slots > cores():
            self._settling.warn(
                f"executor.workers is {self._slots}, but this process has {cores()} CPU cores: "
                "actions take turns on them, and each one takes longer"
            )
        self._pool.preload(modules_for(self._schedule.unsettled()))

    def _wait(self) -> bool:
        """Sleep until something happens; return whether something may start now."""
        if not self._workers:
            time.sleep(_LOCK_POLL_S)
            return True
        try:
            ended = self._workers.wait(_LOCK_POLL_S if self._blocked else None)
        except WorkerLostError as error:
            self._lose_all(error)
            return True
        for running, event in ended:
            self._end(running, event)
        return self._blocked or bool(ended)

    def _lose_all(self, error: WorkerLostError) -> None:
        """The server is gone: fail what was running; what follows starts another one."""
        for one in self._workers.lose():
            self._close(one.action, self._endings.lost(one.action, one.resolved.key, error))
            self._unpark(one.resolved.key)

    def _end(self, running: Running, event: Ended) -> None:
        action = running.action
        starved: bool | None = False
        if event.code == -signal.SIGKILL and not running.timed_out and self._kills is not None:
            starved = self._kills.claim()
        try:
            finished = self._endings.of(running, event.code, starved=starved)
            if starved:
                self._starved.add(action.id)
            if finished is not None and finished.result is not None:
                self._costs.add(action, Cost(seconds=finished.seconds, peak_bytes=event.peak_bytes))
                self._built[running.resolved.key] = finished.result
                self._built[finished.result.key] = finished.result
            self._close(action, finished)
        finally:
            running.claim.release()
            shutil.rmtree(running.directory, ignore_errors=True)
        self._unpark(running.resolved.key)

    def _unpark(self, key: str) -> None:
        for action in self._parked.pop(key, ()):
            self._resolved.pop(action.id, None)
            self._schedule.again(action)

    def _close(self, action: Action, finished: Finished | None) -> None:
        """Settle an action that was started; None: its worker was lost, and it runs again."""
        if finished is not None:
            self._settle(action, finished)
            return
        text = f"a worker of '{action.stage}' was lost: the action was run again"
        self._settling.warn(f"{text} (its log says why)")
        self._forget(action)
        self._schedule.again(action)

    def _settle(self, action: Action, finished: Finished | None) -> None:
        """Note the end of an action; None: it is skipped."""
        self._forget(action)
        if finished is None:
            self._settling.skip(action)
        else:
            self._settling.settle(action, finished)

    def _forget(self, action: Action) -> None:
        self._resolved.pop(action.id, None)
        self._ready.discard(action)
        self._ready_alone.discard(action)
