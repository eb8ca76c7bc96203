"""What ``make demo`` promises: three proven variants of digits, and the second time nothing
runs."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.acceptance.conftest import DEMO, QUICK, Site
from tests.command import Ran, Watched, Workplace, action

PRECISIONS = ("fp32", "fp16", "int8")
COMPUTE = {"fp32": "fp32", "fp16": "fp32", "int8": "int8"}


@pytest.fixture(scope="module")
def again(demo: Site) -> Watched:
    """The same command a second time."""
    return demo.place.watch(*DEMO, *QUICK)


@pytest.fixture(scope="module")
def again_json(demo: Site) -> Ran:
    """And a third time, with the results as JSON."""
    return demo.place.build(*DEMO, *QUICK)


def test_exit_code(demo: Site) -> None:
    assert demo.built.code == 0, demo.built.text


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_variant_is_proven_and_measured(demo: Site, precision: str) -> None:
    manifest = demo.built.variant(f"precision={precision}")
    written = json.loads((Path(manifest["directory"]) / "manifest.json").read_text())
    summary = written["summary"]

    assert written["schema"] == 1
    assert written["status"] == "passed"
    assert summary["metric"] > 0.98
    assert summary["metric_reference"] > 0.98
    assert summary["p50_ms"] > 0
    assert summary["storage"].startswith(precision)
    assert COMPUTE[precision] in summary["compute"]
    assert summary["verdict"] == "proved"
    judged = action(written, "judge session")["values"]["outputs"]["logits"]
    assert {"max_abs", "mean_abs", "max_rel", "cosine", "snr_db", "spread"} <= set(judged)
    assert {"onnx", "session", "samples", "reference"} <= set(written["artifacts"])


def test_an_int8_model_is_quantized_and_smaller(demo: Site) -> None:
    manifests = [demo.built.variant(f"precision={name}") for name in PRECISIONS]
    sizes = [manifest["summary"]["artifact_bytes"] for manifest in manifests]
    quantized = action(manifests[2], "quantize")["values"]["quantized"]

    assert quantized["Conv"] > 0
    assert sizes[0] > sizes[1] > sizes[2]


@pytest.mark.parametrize("role", ["export", "reference", "simplify", "canonicalize", "samples"])
def test_what_the_variants_share_ran_once(demo: Site, role: str) -> None:
    statuses = [action(manifest, role)["status"] for manifest in demo.built.variants]

    assert statuses == ["ran", "shared", "shared"]


def test_the_parent_of_a_cold_run_stays_small(demo: Site) -> None:
    assert demo.built.heavy == []
    assert demo.built.peak_kib < 200 * 1024


def test_nothing_runs_the_second_time(again_json: Ran) -> None:
    actions = [one for variant in again_json.json()["variants"] for one in variant["actions"]]

    assert again_json.code == 0
    assert {one["status"] for one in actions} == {"cached"}
    assert {one["seconds"] for one in actions} == {0.0}


def test_the_second_run_imports_nothing_heavy(again: Watched) -> None:
    assert again.code == 0, again.text
    assert again.heavy == []
    assert again.peak_kib < 200 * 1024


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_table_says_what_the_manifest_says(demo: Site, again: Watched, precision: str) -> None:
    summary = demo.built.variant(f"precision={precision}")["summary"]
    (row,) = [line for line in again.out.splitlines() if line.startswith(f"precision={precision} ")]
    accuracy, p50 = f"{summary['metric']:.2%}", f"{summary['p50_ms']:.2f} ms"

    for shown in (accuracy, p50, summary["storage"], summary["compute"], "passed"):
        assert shown in row
    assert re.search(r"\d+ cached ·", again.out)


def test_single_and_sweep_share_the_store(demo: Site, copy_of: Callable[[Site], Workplace]) -> None:
    # Another experiment, the same actions.
    built = copy_of(demo).build("precision=fp16", *QUICK)

    assert built.code == 0
    assert built.ran() == set()
