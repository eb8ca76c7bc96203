from __future__ import annotations

from typing import Any, cast

import pytest

from benchmarks.bounds import Bound, Took, bound_of
from orchestrator.config.schema import Config
from orchestrator.plan.graph import Gate, Graph, Ref, Step, Variant

SECONDS = {"export": 3.0, "run": 2.0, "judge": 1.0, "audit": 0.5, "benchmark": 4.0}


def made(variants: int) -> tuple[Graph, dict[str, Took]]:
    """Chains export - run - judge, then audit and benchmark of the export behind the judgement.

    All variants share the export; every run has a key of its own.
    """
    graph, took = Graph(), {}
    for number in range(variants):
        variant = Variant(index=number, name=str(number), config=cast("Config", None), overrides=[])

        def add(stage: str, inputs: dict[str, str], own: Any, variant: Variant = variant) -> str:
            refs = {name: Ref(action=action, output="onnx") for name, action in inputs.items()}
            identity = graph.add(stage, {"own": own}, inputs=refs)
            step = Step(role=stage, stage=stage, action=identity, gates=len(variant.gates))
            variant.steps.append(step)
            took[identity] = Took(key=f"{stage} {own}", seconds=SECONDS[stage])
            return identity

        export = add("export", {}, None)
        judge = add("judge", {"outputs": add("run", {"model": export}, number)}, number)
        variant.gates.append(Gate(name="onnx", check="judge", action=judge, precision="fp32"))
        add("audit", {"model": export}, number)
        add("benchmark", {"model": export}, number)
        graph.variants.append(variant)
    return graph, took


def test_what_waits_for_a_gate_is_behind_it_on_the_critical_path() -> None:
    graph, took = made(1)
    bound = bound_of(graph, took, 2)
    assert bound == Bound(critical_s=10.0, exclusive_s=4.0, rest_s=6.5, cores=2)
    assert bound.seconds == 10.0


def test_shared_actions_count_once_and_measurements_are_not_divided() -> None:
    graph, took = made(4)
    bound = bound_of(graph, took, 2)
    assert (bound.exclusive_s, bound.rest_s) == (16.0, 3.0 + 4 * 3.5)
    assert bound.seconds == 16.0 + 17.0 / 2


def test_actions_that_turned_out_equal_count_once() -> None:
    graph, took = made(4)
    same = {
        identity: Took(key=one.key.split(" ", maxsplit=1)[0], seconds=one.seconds)
        for identity, one in took.items()
    }
    assert bound_of(graph, same, 1).seconds == pytest.approx(4.0 + 6.5)
