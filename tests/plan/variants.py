"""Plans of real configurations in an empty working directory and store; nothing runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from orchestrator.config.batch import Batch, BatchTask, VariantReturn
from orchestrator.config.compose import Composer
from orchestrator.config.typed import composition
from orchestrator.plan.graph import Action, Graph, Variant
from orchestrator.session import Planned, planned
from orchestrator.store import digests
from orchestrator.store.results import Result


def compose(*overrides: str) -> Batch:
    """Compose *overrides*; several values are a sweep."""
    found: list[Batch] = []

    def keep(batch: Batch) -> list[VariantReturn]:
        found.append(batch)
        return [VariantReturn(passed=True) for _ in batch.variants]

    with Composer() as composer:
        multirun = any("," in text for text in overrides)
        composer.run(overrides, BatchTask(run=keep, dry=True), multirun=multirun)
    (batch,) = found
    return batch


@contextmanager
def plan(*overrides: str, rebuild: tuple[str, ...] = ()) -> Iterator[Planned]:
    """Plan *overrides*."""
    with planned(composition(compose(*overrides)), rebuild) as found:
        yield found


def graph(*overrides: str) -> Graph:
    """Return the graph of *overrides*."""
    with plan(*overrides) as found:
        return found.graph


def stages(variant: Variant, whole: Graph) -> dict[str, str]:
    """Return the action id of each role of a variant."""
    return {step.role: step.action for step in variant.steps if step.action in whole.actions}


def pretended(actions: dict[str, Action]) -> dict[str, Result]:
    """Return a result for each action, whose outputs have digests of their own."""
    wanted: dict[str, set[str]] = {identity: set() for identity in actions}
    for action in actions.values():
        for ref in action.inputs.values():
            wanted[ref.action].add(ref.output)
    return {
        identity: Result(
            key=identity,
            stage=actions[identity].stage,
            material={},
            outputs={
                name: digests.of_json("pretended", [actions[identity].stage, name])
                for name in sorted(names)
            },
            values={},
        )
        for identity, names in wanted.items()
    }


def keys(*overrides: str) -> dict[str, str]:
    """Return the key of each role of one variant, as if every input were there."""
    with plan(*overrides) as found:
        results = pretended(found.graph.actions)
        (variant,) = found.graph.variants
        return {
            step.role: found.resolver.resolve(found.graph.actions[step.action], results).key
            for step in variant.steps
        }
