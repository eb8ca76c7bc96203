"""What the ends of actions mean for the variants: results, gates, failures, and reasons."""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator.errors import OrchestrateError, StageError, WorkerLostError
from orchestrator.executor.outcome import Finished, Listener, Outcome
from orchestrator.executor.schedule import Schedule
from orchestrator.plan.gates import failures
from orchestrator.plan.graph import Action, Graph, Variant
from orchestrator.store.results import Result


class Settling:
    """Writes the outcome of one run, and tells the schedule and the listener.

    Attributes:
        outcome: What became of the graph so far.
        results: By the id of the action.
    """

    def __init__(
        self,
        graph: Graph,
        wanted: Mapping[str, list[Variant]],
        schedule: Schedule,
        listener: Listener,
        *,
        fail_fast: bool,
    ) -> None:
        """Nothing is settled.

        Args:
            graph: What is run.
            wanted: The variants that want each action, by action id.
            schedule: Is told what ended, passed and failed.
            listener: Is told what ended.
            fail_fast: The first failed variant ends the run.
        """
        self._graph, self._wanted, self._schedule = graph, wanted, schedule
        self._listener, self._fail_fast = listener, fail_fast
        self.outcome = Outcome()
        self.results: dict[str, Result] = {}

    @property
    def stopped(self) -> bool:
        """Whether a failure ended the run."""
        return bool(self.outcome.stopped)

    def warn(self, text: str) -> None:
        """Tell the user, once."""
        if text and text not in self.outcome.warnings:
            self.outcome.warnings.append(text)

    def settle(self, action: Action, finished: Finished) -> None:
        """Note how *action* ended."""
        wanted = self._wanted[action.id]
        self.outcome.finished[action.id] = finished
        if finished.result is not None:
            self.results[action.id] = finished.result
        self._schedule.settle(action, succeeded=finished.result is not None)
        self._listener.finished(action, wanted, finished)
        for variant in filter(self._schedule.alive, wanted):
            if finished.status == "failed" and finished.error is not None:
                self._fail(variant, [finished.error])
            elif finished.result is not None:
                self._pass_gates(variant)

    def skip(self, action: Action) -> None:
        """Settle *action* as skipped, with the reason."""
        self.settle(action, Finished(status="skipped", error=self._reason(action)))

    def close(self) -> Outcome:
        """Skip what has not ended, and return the outcome."""
        for action in self._schedule.unsettled():
            self.skip(action)
        left = [
            variant
            for variant in self._graph.variants
            if self.stopped and self._schedule.alive(variant) and not self._is_whole(variant)
        ]
        if left:
            self.warn(
                f"--fail-fast: {self.outcome.stopped} failed, so {len(left)} others are skipped"
            )
        return self.outcome

    def _is_whole(self, variant: Variant) -> bool:
        return all(step.action in self.results for step in variant.steps)

    def _pass_gates(self, variant: Variant) -> None:
        while (passed := self._schedule.passed(variant)) < len(variant.gates):
            gate = variant.gates[passed]
            result = self.results.get(gate.action)
            if result is None:
                return
            found = failures(gate, variant.config, result)
            if found:
                self._fail(variant, list(found))
                return
            self._schedule.advance(variant)

    def _fail(self, variant: Variant, errors: list[OrchestrateError]) -> None:
        self.outcome.failures[variant.index] = errors
        if self._fail_fast and not self.stopped:
            self.outcome.stopped = variant.name
        self._schedule.fail(variant)

    def _reason(self, action: Action) -> OrchestrateError:
        if self.outcome.interrupted:
            return WorkerLostError("interrupted", where=action.stage)
        wanted = self._wanted[action.id]
        if self.stopped and any(map(self._schedule.alive, wanted)):
            text = f"not run: {self.outcome.stopped} failed, and --fail-fast ended the run"
            return StageError(text, where=action.stage, hint="leave --fail-fast out")
        # Each manifest has this: a thousand names in each of a thousand are too many.
        who = wanted[0].name if len(wanted) == 1 else f"all {len(wanted)} variants that wanted it"
        return StageError(f"not needed any more: {who} failed", where=action.stage)
