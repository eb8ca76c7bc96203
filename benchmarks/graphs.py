"""The graph that overrides lead to, composed and planned in this process, for benchmarks."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence

from orchestrator.config.batch import Batch, BatchTask, VariantReturn
from orchestrator.config.compose import Composer
from orchestrator.config.typed import composition
from orchestrator.plan.graph import Graph
from orchestrator.session import planned


def graph_of(overrides: Sequence[str], *, multirun: bool) -> Graph:
    """Return the graph of *overrides*; nothing runs, and no store but an empty one is looked at.

    Raises:
        ConfigError, PlanError: as of ``orchestrate plan``.
    """
    found: list[Graph] = []

    def keep(batch: Batch) -> list[VariantReturn]:
        with planned(composition(batch)) as plan:
            found.append(plan.graph)
        return [VariantReturn(passed=True) for _ in batch.variants]

    with tempfile.TemporaryDirectory() as store, Composer() as composer:
        task = BatchTask(run=keep, dry=True)
        composer.run([*overrides, f"cache.dir={store}"], task, multirun=multirun)
    (graph,) = found
    return graph
