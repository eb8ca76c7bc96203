"""The local executor: runs what is not cached, each action once, until every variant is settled.

An action is considered when its inputs are known and some living variant has passed the gates
before
it. Equal keys meet at the key's lock: the second action, or the second process, waits for the first
and then finds the result. A failure settles the variants that wanted the action; the others go on.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Final

from orchestrator.errors import OrchestrateError, StageError, StoreError, WorkerLostError
from orchestrator.executor.ending import Endings, Running
from orchestrator.executor.failed_before import FailedBefore
from orchestrator.executor.machine import MachineLock, try_device
from orchestrator.executor.needs import modules_for
from orchestrator.executor.outcome import Finished, Listener, Outcome, Status
from orchestrator.executor.pool import Ended, Pool, Progressed, Started
from orchestrator.executor.request import request_for
from orchestrator.executor.worker import REQUEST
from orchestrator.plan.gates import failures
from orchestrator.plan.graph import Action, Graph, Variant
from orchestrator.plan.observed import Observer
from orchestrator.plan.resolve import Resolved, Resolver, State
from orchestrator.plan.secrets import Secrets
from orchestrator.stages.base import Use
from orchestrator.stages.catalogue import stage as find_stage
from orchestrator.store.locks import Lock
from orchestrator.store.results import Result
from orchestrator.store.store import Store, explained

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
            timeout_s: An action that takes longer is ended, in seconds.
            rebuild: Stages whose stored results and failures are not used.
            retries: How often an action is run again whose worker was lost.
            retry_failed: Failures that are remembered from earlier runs do not count.
            fail_fast: The first failed variant ends the run.
        """
        self._graph, self._store, self._resolver, self._secrets = graph, store, resolver, secrets
        self._pool, self._listener = pool, listener
        self._scratch, self._base = scratch, base
        self._workers, self._timeout_s = workers, timeout_s
        self._rebuild, self._fail_fast = set(rebuild), fail_fast
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
        self._machine = MachineLock()
        self._outcome = Outcome()
        self._results: dict[str, Result] = {}
        self._running: dict[int, Running] = {}
        self._ready: dict[str, Resolved] = {}
        self._waited: set[str] = set()
        self._built: set[str] = set()
        self._passed = {variant.index: 0 for variant in graph.variants}
        self._wanted = graph.wanted_by()
        self._consumers: dict[str, set[str]] = {identity: set() for identity in graph.actions}
        for action in graph.actions.values():
            for ref in action.inputs.values():
                self._consumers[ref.action].add(action.id)
        self._candidates = set(graph.actions)
        self._preloaded = False

    def run(self) -> Outcome:
        """Run until every action is settled.

        Returns:
            What became of every action. Ctrl-C is no exception: ``interrupted`` is set then; with
            *fail_fast*, ``stopped`` names the variant that ended the run. Workers may still run in
            both cases: the pool ends them when it is stopped.

        Raises:
            StoreError: the store cannot be written any more; what was finished is kept.
        """
        self._listener.planned(len(self._graph.actions))
        try:
            while not self._outcome.stopped:
                self._consider()
                self._start_ready()
                if not self._running and not self._ready and not self._candidates:
                    break
                if not self._candidates:
                    self._wait()
        except KeyboardInterrupt:
            self._outcome.interrupted = True
        finally:
            for running in self._running.values():
                _release(running.locks)
            self._machine.release()
        for action in self._graph.actions.values():
            if action.id not in self._outcome.finished:
                self._settle(action, Finished(status="skipped", error=self._reason(action)))
        self._tell_stopped()
        return self._outcome

    def _tell_stopped(self) -> None:
        finished = self._outcome.finished
        left = [
            variant
            for variant in self._graph.variants
            if self._alive(variant)
            and any(finished[step.action].result is None for step in variant.steps)
        ]
        if self._outcome.stopped and left:
            text = f"--fail-fast: {self._outcome.stopped} failed, so {len(left)} others are skipped"
            self._outcome.warnings.append(text)

    def _consider(self) -> None:
        """Sort the candidates into settled, ready and not yet (which come back by an event)."""
        while self._candidates and not self._outcome.stopped:
            for identity in [name for name in self._graph.actions if name in self._candidates]:
                self._candidates.discard(identity)
                self._consider_one(self._graph.actions[identity])

    def _consider_one(self, action: Action) -> None:
        if action.id in self._outcome.finished or self._is_running(action):
            return
        living = [one for one in self._wanted[action.id] if self._alive(one)]
        inputs = [self._outcome.finished.get(ref.action) for ref in action.inputs.values()]
        if not living or any(one is not None and one.result is None for one in inputs):
            self._settle(action, Finished(status="skipped", error=self._reason(action)))
            return
        if any(one is None for one in inputs) or not any(
            self._may_run(action, one) for one in living
        ):
            return
        self._resolve(action, waited=False)

    def _resolve(self, action: Action, *, waited: bool) -> None:
        """Settle *action* from the store, or make it ready."""
        try:
            resolved = self._resolver.resolve(action, self._results)
        except StoreError:
            raise
        except OrchestrateError as error:  # a tool of this stage is missing, say: others go on
            self._settle(action, Finished(status="failed", error=error))
            return
        if resolved.warning and resolved.warning not in self._outcome.warnings:
            self._outcome.warnings.append(resolved.warning)
        if resolved.state is State.CACHED and resolved.result is not None:
            self._ready.pop(action.id, None)
            # Built in this run under another name, or by a process that was waited for.
            shared = waited or resolved.result.key in self._built
            status: Status = "shared" if shared else "cached"
            self._settle(action, Finished(status=status, result=resolved.result))
        elif (failed := self._known_failure(action, resolved)) is not None:
            self._settle(action, failed)
        else:
            self._ready[action.id] = resolved

    def _known_failure(self, action: Action, resolved: Resolved) -> Finished | None:
        wanted_anew = action.stage in self._rebuild or action.id in self._graph.fresh
        if wanted_anew or self._endings.tried(action):
            return None
        return self._failed_before.find(action, resolved)

    def _start_ready(self) -> None:
        """Start what is ready as far as workers and locks allow; benchmarks last and alone."""
        if self._outcome.stopped:
            return
        for identity in list(self._ready):
            action = self._graph.actions[identity]
            free = len(self._running) < self._workers
            if free and identity in self._ready and not find_stage(action.stage).exclusive:
                self._try_start(action, exclusive=False)
        if self._running or self._candidates:
            return
        for identity in list(self._ready):
            action = self._graph.actions[identity]
            free = not self._running
            if free and identity in self._ready and find_stage(action.stage).exclusive:
                self._try_start(action, exclusive=True)

    def _try_start(self, action: Action, *, exclusive: bool) -> None:
        if any(running.exclusive for running in self._running.values()):
            return
        if not self._machine.hold(exclusive=exclusive):
            other = "is at work" if exclusive else "is measuring"
            self._wait_for(action, f"another orchestrate {other} on this machine")
            return
        lock = self._store.lock(self._ready[action.id].key)
        if lock is None:
            self._wait_for(action, "another worker is building the same")
            return
        # Somebody may have finished it between the look-up and the lock.
        self._resolve(action, waited=action.id in self._waited)
        if action.id not in self._ready:
            lock.release()
            return
        locks = [lock]
        if action.device:
            alone = find_stage(action.stage).device is Use.ALONE
            device = try_device(action.device, alone=alone)
            if device is None:
                lock.release()
                self._wait_for(action, "the GPU is in use")
                return
            locks.append(device)
        self._start(action, self._ready.pop(action.id), locks, exclusive)

    def _wait_for(self, action: Action, reason: str) -> None:
        if action.id not in self._waited:
            self._waited.add(action.id)
            self._listener.waiting(action, reason)

    def _start(
        self, action: Action, resolved: Resolved, locks: list[Lock], exclusive: bool
    ) -> None:
        if not self._preloaded:
            self._pool.preload(modules_for(self._pending()))
            self._preloaded = True
        directory = self._scratch / f"{action.stage}-{action.id[:12]}-{time.time_ns()}"
        request = request_for(action, resolved, self._store, self._results, self._base)
        with explained(self._store.root):
            directory.mkdir()
            (directory / REQUEST).write_text(json.dumps(request))
        held = [*(lock.descriptor for lock in locks), *self._machine.descriptor]
        try:
            worker = self._pool.submit(directory, modules_for([action]), held)
        except WorkerLostError as error:
            _release(locks)
            self._lose_all(error)
            self._close(action, self._endings.lost(action, resolved.key, error))
            return
        self._running[worker] = Running(
            action=action,
            resolved=resolved,
            locks=locks,
            directory=directory,
            begun=time.monotonic(),
            exclusive=exclusive,
        )
        self._listener.started(action, self._wanted[action.id])

    def _wait(self) -> None:
        """Sleep until a worker reports or ends, a lock may be free, or a time limit passes."""
        polling = any(identity in self._waited for identity in self._ready)
        timeout = _LOCK_POLL_S if polling or self._timeout_s is not None else None
        if not self._running:
            time.sleep(_LOCK_POLL_S)
            return
        try:
            events = self._pool.poll(timeout)
        except WorkerLostError as error:
            self._lose_all(error)
            return
        for event in events:
            match event:
                case Started(id=worker) if worker in self._running:
                    self._running[worker].begun = time.monotonic()  # imports are not its time
                case Progressed(id=worker, done=done, text=text):
                    if worker in self._running:
                        self._listener.progressed(self._running[worker].action, done, text)
                case Ended(id=worker, code=code):
                    self._end(self._running.pop(worker), code)
        now = time.monotonic()
        for worker, running in self._running.items():
            if self._timeout_s is not None and now - running.begun > self._timeout_s:
                running.timed_out = True
                self._pool.kill(worker)

    def _lose_all(self, error: WorkerLostError) -> None:
        """The server is gone: fail what was running; what follows starts another one."""
        running, self._running = list(self._running.values()), {}
        for one in running:
            _release(one.locks)
            self._close(one.action, self._endings.lost(one.action, one.resolved.key, error))

    def _end(self, running: Running, code: int) -> None:
        try:
            self._close(running.action, self._endings.of(running, code))
        finally:
            _release(running.locks)
            shutil.rmtree(running.directory, ignore_errors=True)

    def _close(self, action: Action, finished: Finished | None) -> None:
        """Settle an action that was started; None: its worker was lost, and it runs again."""
        if finished is None:
            text = f"a worker of '{action.stage}' was lost: the action was run again"
            self._outcome.warnings.append(f"{text} (its log says why)")
            self._candidates.add(action.id)
            return
        if finished.result is not None:
            self._built.add(finished.result.key)
        self._settle(action, finished)

    def _settle(self, action: Action, finished: Finished) -> None:
        self._outcome.finished[action.id] = finished
        self._ready.pop(action.id, None)
        self._candidates |= self._consumers[action.id]
        if finished.result is not None:
            self._results[action.id] = finished.result
        self._listener.finished(action, finished)
        for variant in self._wanted[action.id]:
            if not self._alive(variant):
                continue
            if finished.status == "failed" and finished.error is not None:
                self._fail(variant, [finished.error])
            elif finished.result is not None:
                self._pass_gates(variant)

    def _pass_gates(self, variant: Variant) -> None:
        while (passed := self._passed[variant.index]) < len(variant.gates):
            gate = variant.gates[passed]
            result = self._results.get(gate.action)
            if result is None:
                return
            found = failures(gate, variant.config, result)
            if found:
                self._fail(variant, list(found))
                return
            self._passed[variant.index] = passed + 1
            self._candidates |= {step.action for step in variant.steps}

    def _fail(self, variant: Variant, errors: list[OrchestrateError]) -> None:
        self._outcome.failures[variant.index] = errors
        if self._fail_fast and not self._outcome.stopped:
            self._outcome.stopped = variant.name
        self._candidates |= {step.action for step in variant.steps}

    def _alive(self, variant: Variant) -> bool:
        return variant.index not in self._outcome.failures

    def _may_run(self, action: Action, variant: Variant) -> bool:
        passed = self._passed[variant.index]
        return any(step.action == action.id and step.gates <= passed for step in variant.steps)

    def _is_running(self, action: Action) -> bool:
        return any(running.action.id == action.id for running in self._running.values())

    def _pending(self) -> list[Action]:
        settled = self._outcome.finished
        return [action for action in self._graph.actions.values() if action.id not in settled]

    def _reason(self, action: Action) -> OrchestrateError:
        if self._outcome.interrupted:
            return WorkerLostError("interrupted", where=action.stage)
        names = [one.name for one in self._wanted[action.id]]
        if self._outcome.stopped and any(self._alive(one) for one in self._wanted[action.id]):
            text = f"not run: {self._outcome.stopped} failed, and --fail-fast ended the run"
            return StageError(text, where=action.stage, hint="leave --fail-fast out")
        return StageError(f"not needed any more: {', '.join(names)} failed", where=action.stage)


def _release(locks: Iterable[Lock]) -> None:
    for lock in locks:
        lock.release()
