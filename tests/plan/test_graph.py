"""Variants are merged into one graph, and what is known of each action before it runs."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.plan.observed import PARTS
from orchestrator.plan.resolve import Resolved, State
from orchestrator.session import Planned
from orchestrator.stages.catalogue import stage as find_stage
from orchestrator.store import digests
from orchestrator.store.results import Result
from tests.plan.variants import graph, plan, stages

UP_TO_CANONICALIZE = {
    "samples", "export", "simplify", "canonicalize", "reference", "run onnx", "judge onnx",
    "task data", "reference task",
}  # fmt: skip


def test_a_sweep_over_precisions_shares_everything_up_to_canonicalize() -> None:
    whole = graph("precision=fp32,fp16,int8", "benchmark=none")
    found = [stages(variant, whole) for variant in whole.variants]
    fp32 = found[0]
    for other in found[1:]:
        shared = {role for role, identity in fp32.items() if other.get(role) == identity}
        assert shared == UP_TO_CANONICALIZE
    assert len([one for one in whole.actions.values() if one.stage == "export"]) == 1


def test_a_sweep_over_tolerances_is_one_chain() -> None:
    one = graph("compare.fp32.max_error=0.1")
    many = graph("compare.fp32.max_error=0.1,0.2,0.3")
    assert len(many.variants) == 3
    assert set(many.actions) == set(one.actions)


def test_every_action_comes_after_its_inputs() -> None:
    whole = graph("precision=fp32,fp16,int8", "exporter=dynamo,torchscript")
    seen: set[str] = set()
    for identity, action in whole.actions.items():
        assert {ref.action for ref in action.inputs.values()} <= seen
        seen.add(identity)
    assert {step.action for variant in whole.variants for step in variant.steps} == seen


def test_gates_come_before_what_they_guard() -> None:
    (variant,) = graph("precision=int8").variants
    behind = {step.role: step.gates for step in variant.steps}
    names = [gate.name for gate in variant.gates]
    assert names == ["onnx", "lowered", "session", "task", "audit"]
    assert behind["export"] == behind["judge onnx"] == 0
    assert behind["quantize"] == names.index("lowered")
    assert behind["benchmark"] == len(names)


def states(planned: Planned, results: dict[str, Result]) -> dict[str, Resolved]:
    (variant,) = planned.graph.variants
    return {
        step.role: planned.resolver.resolve(planned.graph.actions[step.action], results)
        for step in variant.steps
    }


def store_all(planned: Planned) -> dict[str, Result]:
    """Store a result with real trees for every action, in the graph's order."""
    results: dict[str, Result] = {}
    for identity, action in planned.graph.actions.items():
        resolved = planned.resolver.resolve(action, results)
        outputs = {}
        for name in find_stage(action.stage).outputs:
            source = planned.scratch / f"{identity}-{name}"
            source.mkdir()
            (source / "content").write_text(f"{action.stage} {name}")
            outputs[name] = planned.store.trees.add(source)
        record: dict[str, Any] = {part: {} for part in PARTS}
        user_code = action.stage in ("samples", "export", "reference", "score")
        key, material = planned.resolver.complete(resolved, record if user_code else None)
        result = Result(key=key, stage=action.stage, material=material, outputs=outputs, values={})
        planned.store.results.put(result, replace=False)
        if user_code:
            planned.store.results.observe(resolved.key, record)
        if action.stage == "benchmark":
            planned.store.results.measure(result)
        results[identity] = result
    return results


def test_in_an_empty_store_the_first_actions_run_and_the_rest_depends() -> None:
    with plan() as planned:
        found = states(planned, {})
        runs = {role for role, one in found.items() if one.state is State.RUNS}
        assert runs == {"samples", "task data"}
        assert {one.reason for one in found.values() if one.state is State.RUNS} == {
            "not built before with these inputs"
        }
        waits = found["judge onnx"].waits
        assert sorted(planned.graph.actions[name].stage for name in waits) == ["reference", "run"]
        assert all(one.state is not State.CACHED for one in found.values())


def test_what_is_stored_is_cached() -> None:
    with plan() as planned:
        results = store_all(planned)
    with plan() as planned:
        found = states(planned, results)
        assert {one.state for one in found.values()} == {State.CACHED}
        assert all(one.result is not None and one.key == one.result.key for one in found.values())


@pytest.mark.parametrize("stage", ["canonicalize", "export", "benchmark"])
def test_rebuild_disowns_one_stage(stage: str) -> None:
    with plan() as planned:
        results = store_all(planned)
    with plan(rebuild=(stage,)) as planned:
        found = states(planned, results)
        runs = {role for role, one in found.items() if one.state is State.RUNS}
        assert runs == {stage}
        assert found[stage].reason == "--rebuild"


def test_a_fresh_measurement_is_asked_for_by_name() -> None:
    with plan() as planned:
        results = store_all(planned)
    with plan("benchmark.fresh=true") as planned:
        found = states(planned, results)
        assert found["benchmark"].reason == "benchmark.fresh=true"
        assert {role for role, one in found.items() if one.state is State.RUNS} == {"benchmark"}


def test_a_damaged_artifact_is_built_again_and_said_so() -> None:
    with plan() as planned:
        results = store_all(planned)
        export = next(one for one in results.values() if one.stage == "export")
        planned.store.trees.remove(export.outputs["onnx"])
    with plan() as planned:
        found = states(planned, results)
        assert found["export"].state is State.RUNS
        assert (
            "the stored export 'onnx' is damaged (is not in the store)" in found["export"].warning
        )


def test_equal_bytes_from_another_export_share_everything_after_it() -> None:
    """Early cutoff: keys hold the digests of inputs, never the keys of what made them."""
    with plan() as planned:
        store_all(planned)
    with plan("exporter.constant_folding=false") as planned:
        results: dict[str, Result] = {}
        ran = []
        for identity, action in planned.graph.actions.items():
            resolved = planned.resolver.resolve(action, results)
            result = resolved.result
            if result is None:
                ran.append(action.stage)
                same = [one for one in planned.store.results.all() if one.stage == action.stage]
                result = same[0]
            results[identity] = result
        assert ran == ["export"]


def test_the_same_key_is_one_action_whoever_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = graph(), graph("executor.workers=1", "compare.fp32.max_error=0.5")
    assert set(first.actions) == set(second.actions)
    assert all(len(identity) == len(digests.of_bytes(b"")) for identity in first.actions)
