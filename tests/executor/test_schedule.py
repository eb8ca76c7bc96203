"""What may run, and what of it first: the logic alone, without processes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator.executor.schedule import Ready, Schedule, Verdict, paths
from orchestrator.plan.graph import Action, Gate, Graph, Ref, Step, Variant
from tests.executor.runs import CONFIG, Place, add_variant


class Plan:
    """A graph of actions called by letters; a variant for each list of ``(letter, gates)``."""

    def __init__(self, inputs: dict[str, str], *variants: list[tuple[str, int]]) -> None:
        self.graph = Graph()
        self.ids: dict[str, str] = {}
        for name, sources in inputs.items():
            refs = {source: Ref(action=self.ids[source], output="out") for source in sources}
            self.ids[name] = self.graph.add("canonicalize", {"name": name}, inputs=refs)
        for index, steps in enumerate(variants):
            variant = Variant(index=index, name=f"v{index}", config=CONFIG, overrides=[])
            variant.steps += [
                Step(role=name, stage="canonicalize", action=self.ids[name], gates=gates)
                for name, gates in steps
            ]
            self.graph.variants.append(variant)
        self.schedule = Schedule(self.graph, self.graph.wanted_by())

    def gate(self, name: str, variant: int = 0) -> None:
        """Let the action *name* decide the variant's next gate."""
        gate = Gate(name=name, check="judge", action=self.ids[name], precision="fp32")
        self.graph.variants[variant].gates.append(gate)

    def action(self, name: str) -> Action:
        return self.graph.actions[self.ids[name]]

    def candidates(self) -> str:
        """The candidates there are, in order, with those that come meanwhile."""
        return "".join(action.params["name"] for action in self.schedule.candidates())

    def verdict(self, name: str) -> Verdict:
        return self.schedule.verdict(self.action(name))

    def settle(self, name: str, *, succeeded: bool = True) -> None:
        self.schedule.settle(self.action(name), succeeded=succeeded)

    def paths(self, **seconds: float) -> dict[str, float]:
        found = paths(
            self.graph, self.schedule.unsettled(), lambda one: seconds[one.params["name"]]
        )
        return {name: found[identity] for name, identity in self.ids.items() if identity in found}


def test_everything_is_a_candidate_once_and_again_only_by_an_event() -> None:
    plan = Plan({"a": "", "b": "a", "c": "b"}, [("a", 0), ("b", 0), ("c", 0)])
    assert plan.candidates() == "abc"
    assert [plan.verdict(name) for name in "abc"] == [
        Verdict.OPEN,
        Verdict.NOTHING,
        Verdict.NOTHING,
    ]
    assert not plan.schedule.has_candidates
    plan.settle("a")
    assert plan.candidates() == "b", "c waits for b"
    assert plan.verdict("a") is Verdict.NOTHING
    assert plan.verdict("b") is Verdict.OPEN


def test_a_settled_input_makes_its_reader_a_candidate_within_the_same_round() -> None:
    plan = Plan({"a": "", "b": "a", "c": "b"}, [("a", 0), ("b", 0), ("c", 0)])
    order = []
    for action in plan.schedule.candidates():
        order.append(action.params["name"])
        plan.schedule.settle(action, succeeded=True)
    assert order == ["a", "b", "c"]


def test_without_an_input_or_a_living_variant_it_is_skipped() -> None:
    plan = Plan({"a": "", "b": "a", "c": ""}, [("a", 0), ("b", 0)], [("c", 0)], [("c", 0)])
    plan.candidates()
    plan.settle("a", succeeded=False)
    assert plan.candidates() == "b"
    assert plan.verdict("b") is Verdict.SKIP
    plan.schedule.fail(plan.graph.variants[1])
    assert plan.verdict("c") is Verdict.OPEN, "the other variant wants it"
    plan.schedule.fail(plan.graph.variants[2])
    assert plan.candidates() == "c"
    assert plan.verdict("c") is Verdict.SKIP


def test_an_action_behind_a_gate_waits_unless_another_variant_is_ahead() -> None:
    plan = Plan({"a": "", "b": "", "c": ""}, [("a", 0), ("b", 1), ("c", 2)], [("a", 0), ("b", 2)])
    plan.gate("a")
    first, second = plan.graph.variants
    plan.candidates()
    assert plan.verdict("b") is Verdict.NOTHING
    plan.schedule.advance(second)
    assert plan.candidates() == "", "two gates are between it and the second"
    plan.schedule.advance(first)
    assert plan.candidates() == "b"
    assert plan.verdict("b") is Verdict.OPEN
    assert plan.verdict("c") is Verdict.NOTHING


def test_the_longest_path_counts_readers_and_what_is_behind_a_gate() -> None:
    #  a ─ b ─ d     j decides the gate before e
    #    ╲ c   j
    plan = Plan(
        {"a": "", "b": "a", "c": "a", "d": "b", "j": "", "e": ""},
        [("a", 0), ("b", 0), ("c", 0), ("d", 0), ("j", 0), ("e", 1)],
    )
    plan.gate("j")
    found = plan.paths(a=1, b=2, c=30, d=4, j=0.5, e=100)
    assert found == {"e": 100, "j": 100.5, "d": 4, "c": 30, "b": 6, "a": 31}
    plan.settle("a")
    plan.settle("c")
    left = plan.paths(b=2, d=4, j=0.5, e=100)
    assert left == {"e": 100, "j": 100.5, "d": 4, "b": 6}


def test_a_gate_does_not_order_what_an_earlier_variant_runs_anyway() -> None:
    plan = Plan({"e": "", "j": ""}, [("e", 0)], [("j", 0), ("e", 1)])
    plan.gate("j", variant=1)
    assert plan.paths(e=100, j=1) == {"e": 100, "j": 1}


def test_the_longest_is_first_and_equals_keep_their_order() -> None:
    plan = Plan({"a": "", "b": "", "c": "", "d": ""}, [(name, 0) for name in "abcd"])
    rank = {"a": 1.0, "b": 5.0, "c": 1.0, "d": 3.0}
    ready = Ready(lambda action: rank[action.params["name"]])

    def order() -> str:
        return "".join(action.params["name"] for action in ready.ordered())

    for name in "acb":
        ready.add(plan.action(name))
    assert order() == "bac"
    ready.discard(plan.action("a"))
    ready.add(plan.action("d"))
    ready.add(plan.action("b"))
    assert (order(), len(ready)) == ("bdc", 3)
    assert plan.action("a") not in ready


def test_a_skipped_action_counts_the_variants_that_failed(place: Place) -> None:
    """A thousand names in each of a thousand manifests would be a million."""
    place.write("def f(*, dims, offset, seed):\n    raise ValueError('no')\n")
    graph = Graph()
    samples = Ref(action=add_variant(graph, "f"), output="samples")
    read = {"reference": samples, "outputs": samples}
    both, own = (graph.add("judge", {"outputs": [name]}, inputs=read) for name in ("a", "b"))
    (first,) = graph.variants
    graph.variants.append(replace(first, index=1, name="g", steps=list(first.steps)))
    for variant, identity in ((0, both), (1, both), (1, own)):
        step = Step(role=identity, stage="judge", action=identity, gates=0)
        graph.variants[variant].steps.append(step)
    finished = place.run_graph(graph).finished
    assert str(finished[own].error) == "judge: not needed any more: g failed"
    assert str(finished[both].error).endswith("all 2 variants that wanted it failed")


@pytest.mark.parametrize("rebuild", [(), ("judge",)])
def test_actions_that_turn_out_to_be_equal_run_once(place: Place, rebuild: tuple[str, ...]) -> None:
    """Two functions give the same samples: what reads them is planned twice and runs once."""
    place.write(
        "def f(*, dims, offset, seed):\n    return image(dims)\n"
        "def g(*, dims, offset, seed):\n    return image(dims, 0.0)\n"
    )
    graph = Graph()
    samples = [Ref(action=add_variant(graph, name), output="samples") for name in "fg"]
    judged = [
        graph.add("judge", {"outputs": ["image"]}, inputs={"reference": first, "outputs": second})
        for first, second in (samples, samples[::-1])
    ]
    for variant, identity in zip(graph.variants, judged, strict=True):
        variant.steps.append(Step(role="judge", stage="judge", action=identity, gates=0))
    outcome = place.run_graph(graph, rebuild=rebuild)
    assert len(set(judged)) == 2
    first, second = (outcome.finished[identity] for identity in judged)
    assert sorted([first.status, second.status]) == ["ran", "shared"]
    assert first.result == second.result
    assert place.listener.waits == [], "nothing of another process was waited for"
