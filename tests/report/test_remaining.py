"""The time left: the critical path, the work divided, gates, and how it is shown."""

from __future__ import annotations

from typing import cast

import pytest

from orchestrator.config.schema import Config
from orchestrator.plan.graph import Gate, Graph, Ref, Step, Variant
from orchestrator.report.remaining import Countdown, Remaining, left_text, seconds_text
from tests.report.given import Given

GIVEN = Given({"export": 10.0, "simplify": 4.0, "judge": 2.0, "benchmark": 8.0})


def chain(graph: Graph, *stages: str) -> list[str]:
    """Add a chain of actions that nothing else shares; return their ids."""
    ids: list[str] = []
    for stage in stages:
        inputs = {"model": Ref(action=ids[-1], output="model")} if ids else {}
        ids.append(graph.add(stage, {"number": len(graph.actions)}, inputs=inputs))
    return ids


def seconds(graph: Graph, workers: int, elapsed: dict[str, float] | None = None) -> float | None:
    remaining = Remaining(graph, GIVEN, workers)
    remaining.renew(0.0)
    return remaining.seconds(elapsed or {})


@pytest.fixture
def graph() -> Graph:
    return Graph()


def test_the_critical_path_bounds_many_workers(graph: Graph) -> None:
    chain(graph, "export", "simplify")
    chain(graph, "export")
    wanted(graph)

    assert seconds(graph, workers=8) == 14.0


def test_the_work_is_divided_among_few_workers(graph: Graph) -> None:
    for _ in range(6):
        chain(graph, "export")
    wanted(graph)

    assert seconds(graph, workers=2) == 30.0


def test_what_needs_the_machine_for_itself_is_not_divided(graph: Graph) -> None:
    for _ in range(4):
        chain(graph, "export", "benchmark")
    wanted(graph)

    assert seconds(graph, workers=4) == 4 * 8.0 + 10.0


def test_a_gate_is_waited_for(graph: Graph) -> None:
    (exported,) = chain(graph, "export")
    (judged,) = chain(graph, "judge")
    (simplified,) = chain(graph, "simplify")
    steps = [
        Step(role="export", stage="export", action=exported, gates=0),
        Step(role="judge onnx", stage="judge", action=judged, gates=0),
        Step(role="simplify", stage="simplify", action=simplified, gates=1),
    ]
    gate = Gate(name="onnx", check="judge", action=judged, precision="fp32")
    graph.variants.append(variant(steps, [gate]))

    assert seconds(graph, workers=8, elapsed={exported: 9.0}) == 2.0 + 4.0


def test_what_runs_has_less_left_but_never_nothing(graph: Graph) -> None:
    (running,) = chain(graph, "export")
    wanted(graph)

    assert seconds(graph, 1, {running: 4.0}) == 6.0
    assert seconds(graph, 1, {running: 30.0}) == pytest.approx(3.0)


def test_nothing_is_said_of_what_nobody_knows(graph: Graph) -> None:
    chain(graph, "cast", "quantize", "build")
    chain(graph, "export")
    wanted(graph)

    assert seconds(graph, workers=2) is None


def test_what_is_settled_counts_no_more(graph: Graph) -> None:
    first, second = chain(graph, "export", "simplify")
    wanted(graph)
    remaining = Remaining(graph, GIVEN, 1)
    remaining.renew(0.0)
    remaining.settle(graph.actions[first])

    assert remaining.seconds({}) == 4.0
    assert remaining.of(graph.actions[second]) == 4.0


def test_a_countdown_turns_slowly() -> None:
    countdown = Countdown()
    assert countdown.at(0.0, None) is None
    assert countdown.at(1.0, 100.0) == 100.0
    assert countdown.at(2.0, 99.0) == 99.0
    jumped = countdown.at(3.0, 400.0)
    assert jumped is not None
    assert 98.0 < jumped < 150.0
    for tick in range(4, 80):
        jumped = countdown.at(float(tick), 400.0)
    assert jumped == pytest.approx(400.0, abs=10.0)


def test_times_for_people() -> None:
    left = [left_text(one) for one in (1, 12, 41, 51, 80, 150, 3500, 3580, 5000, 7300)]
    assert left == [
        "a few seconds left",
        "about 20 s left",
        "about 50 s left",
        "about 1 min left",
        "about 1 min left",
        "about 2 min left",
        "about 58 min left",
        "about 1 h left",
        "about 1 h 20 min left",
        "about 2 h left",
    ]
    assert [seconds_text(one) for one in (0.9, 59.9, 125, 3725)] == [
        "0 s",
        "59 s",
        "2:05",
        "1:02:05",
    ]


def variant(steps: list[Step], gates: list[Gate]) -> Variant:
    # No estimate asks for the configuration.
    config = cast("Config", None)
    return Variant(index=0, name="v", config=config, overrides=[], steps=steps, gates=gates)


def wanted(graph: Graph) -> None:
    """Let one variant want all actions."""
    steps = [
        Step(role=action.stage, stage=action.stage, action=action.id, gates=0)
        for action in graph.actions.values()
    ]
    graph.variants.append(variant(steps, []))
