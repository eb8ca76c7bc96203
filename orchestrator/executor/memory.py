"""How much memory the workers may use together, and what each of them is expected to need."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from orchestrator.executor.cgroups import groups
from orchestrator.executor.costs import Costs
from orchestrator.plan.graph import Action
from orchestrator.stages.catalogue import stage as find_stage
from orchestrator.store.results import Result
from orchestrator.store.trees import Trees

#: Of what is available; the rest is for this process, the page cache and everybody else.
_SHARE: Final = 0.8
#: The next worker may need a little more than the largest so far.
_MARGIN: Final = 1.2
#: How many starts an action that waits for room lets pass.
_PATIENCE: Final = 4
_MEMINFO: Final = Path("/proc/meminfo")


class Memory:
    """Estimates of what actions need, and the room that is left beside those that run."""

    def __init__(
        self,
        costs: Costs,
        trees: Trees,
        results: Mapping[str, Result],
        *,
        limit_bytes: int | None,
    ) -> None:
        """Nothing is read before the first estimate.

        Args:
            costs: Measured by earlier runs.
            trees: Where the inputs lie.
            results: By action id; the inputs of whatever is asked for are in it.
            limit_bytes: What all workers may use together; None: 80 % of what is available then.
        """
        self._costs, self._trees, self._results = costs, trees, results
        self._limit = limit_bytes
        self._taken: dict[str, int] = {}
        self._used = 0
        self._declared: dict[str, int] = {}
        self._passed: Counter[str] = Counter()

    @property
    def limit_bytes(self) -> int:
        """What all workers may use together, as it was found when first asked for."""
        if self._limit is None:
            self._limit = int(_SHARE * available_bytes())
        return self._limit

    def need(self, action: Action) -> int:
        """Return what the worker of *action* is expected to use at most, in bytes.

        It is the largest measured for the same stage and model, and a fifth; without any it is what
        the stage declares for inputs of this size.
        """
        measured = max((cost.peak_bytes for cost in self._costs.narrow(action)), default=0)
        if not measured and action.id not in self._declared:
            self._declared[action.id] = self._by_inputs(action)
        return int(_MARGIN * measured) or self._declared[action.id]

    def fits(self, action: Action) -> bool:
        """Whether *action* may run beside what runs now; alone, everything may."""
        found = not self._taken or self._used + self.need(action) <= self.limit_bytes
        if found:
            self._passed.pop(action.id, None)
        return found

    def has_patience(self, action: Action) -> bool:
        """Whether others may still start before *action*, for which there was no room."""
        return self._passed[action.id] < _PATIENCE

    def pass_over(self, action: Action) -> None:
        """Note that another one was started before *action*, for which there was no room."""
        self._passed[action.id] += 1

    def take(self, action: Action) -> None:
        """Count *action* among those that run."""
        self._taken[action.id] = self.need(action)
        self._used += self._taken[action.id]

    def give(self, action: Action) -> None:
        """Count *action* no more."""
        self._used -= self._taken.pop(action.id)

    def _by_inputs(self, action: Action) -> int:
        outputs = [self._results[ref.action].outputs[ref.output] for ref in action.inputs.values()]
        files = [file.path for file in action.files.values()]
        size = sum(map(self._trees.size, outputs))
        # A directory is a data set: it is read file by file.
        size += sum(path.stat().st_size for path in files if path.is_file())
        return find_stage(action.stage).memory.bytes_for(size)


def available_bytes() -> int:
    """Return how much memory could be used now: of the machine, or what the cgroups still allow."""
    lines = dict(line.split(":", 1) for line in _MEMINFO.read_text().splitlines())
    free = int(lines["MemAvailable"].split()[0]) * 1024
    return max(0, min([free, *(group.room_bytes() for group in groups())]))
