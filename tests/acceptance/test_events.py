"""``--json``: what a sweep tells while it runs, and what it printed, are the same story."""

from __future__ import annotations

import json
import signal
from typing import Any

from tests.acceptance.conftest import Site
from tests.command import Workplace


def test_a_sweep_is_told_from_plan_to_failures(gallery: Site) -> None:
    told = gallery.built.events
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for one in told:
        by_kind.setdefault(one["event"], []).append(one)
    (planned,) = by_kind["planned"]
    started = {one["action"] for one in by_kind["started"]}
    ended = {one["action"]: one for one in by_kind["finished"]}
    failed = {one["variant"]: one for one in by_kind["failed"]}
    variants = {one["name"]: one for one in gallery.built.variants}

    assert told[0] == planned
    assert planned["variants"] == len(variants)
    assert planned["actions"] == len(ended)
    assert {ended[name]["status"] for name in started} == {"ran", "failed"}
    assert started >= {name for name, one in ended.items() if one["status"] == "ran"}
    keys = {one["key"] for one in ended.values() if one["status"] == "ran"}
    assert keys == {
        action["key"]
        for variant in variants.values()
        for action in variant["actions"]
        if action["status"] == "ran"
    }
    assert set(failed) == {name for name, one in variants.items() if one["status"] == "failed"}
    for name, one in failed.items():
        assert one["directory"] == variants[name]["directory"]
        assert [error["message"] for error in one["failures"]] == [
            error["message"] for error in variants[name]["failures"]
        ]


def test_ctrl_c_is_an_event_and_the_results_are_printed(edited: Workplace) -> None:
    words = ["--json", "model=waits", "benchmark=none", "model.samples.seed=8"]
    with edited.running(*words) as process:
        assert process.stderr is not None
        for line in process.stderr:
            event = json.loads(line)
            if (event["event"], event.get("stage")) == ("started", "export"):
                break  # its factory sleeps until it is ended
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    *_, last = [json.loads(line) for line in err.splitlines()]

    assert process.returncode == 130
    assert last["event"] == "interrupted"
    assert "finished actions are kept" in last["message"]
    assert last["hint"] == "the same command goes on from there"
    assert json.loads(out)["interrupted"]
