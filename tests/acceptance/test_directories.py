"""Experiment directories: one for each variant, never shared, complete, and safe to look at."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from pathlib import Path

from tests.acceptance.conftest import Site

FP32 = ("precision=fp32", "benchmark=none")


def test_two_runs_at_once_get_two_directories(demo: Site) -> None:
    words = (*FP32, "hydra.run.dir=outputs/same", "-q")
    runs = [
        subprocess.Popen(
            [sys.executable, "-m", "orchestrator.cli.main", *words],
            cwd=demo.place.directory,
            env=demo.place.environment(),
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    texts = [run.communicate()[0] for run in runs]
    found = sorted(path.name for path in (demo.place.directory / "outputs").glob("same*"))

    assert [run.returncode for run in runs] == [0, 0]
    assert found == ["same", "same-2"]
    assert sorted(text.rpartition("outputs/")[2].strip() for text in texts) == found
    for name in found:
        assert (demo.place.directory / "outputs" / name / "manifest.json").is_file()


def test_a_directory_is_complete(demo: Site) -> None:
    directory = Path(demo.built.variant("precision=int8")["directory"])
    config = (directory / ".hydra" / "config.yaml").read_text()
    overrides = (directory / ".hydra" / "overrides.yaml").read_text()
    logs = [path.name for path in (directory / "logs").iterdir()]

    assert "name: int8" in config
    assert "precision=int8" in overrides
    assert (directory / ".hydra" / "hydra.yaml").is_file()
    assert "export.log" in logs
    assert "quantize.log" in logs


def test_artifacts_are_links_to_read_only_directories_of_the_store(demo: Site) -> None:
    directory = Path(demo.built.variant("precision=int8")["directory"])
    manifest = json.loads((directory / "manifest.json").read_text())

    for name, digest in manifest["artifacts"].items():
        link = directory / "artifacts" / name
        target = link.resolve()
        assert link.is_symlink()
        assert target.name == digest
        assert target.is_relative_to(demo.place.store)
        assert stat.S_IMODE(target.stat().st_mode) == 0o555


def test_each_action_is_in_the_manifest_with_what_made_it(demo: Site) -> None:
    manifest = demo.built.variant("precision=fp32")
    exported = next(one for one in manifest["actions"] if one["stage"] == "export")

    assert {one["status"] for one in manifest["actions"]} <= {"ran", "shared", "cached"}
    assert all(len(one["key"]) == 64 for one in manifest["actions"])
    assert {"torch", "onnx", "onnxscript", "python"} <= set(exported["tools"])
    assert exported["built_seconds"] > 0


def test_the_log_of_the_run_is_written(demo: Site) -> None:
    sweep = Path(demo.built.results["directory"])

    assert "3 variants" in (sweep / "orchestrate.log").read_text()
    assert (sweep / "multirun.yaml").is_file()


def test_gc_within_the_budget_keeps_all_results_and_pins(demo: Site) -> None:
    before = demo.place.run("cache", "stats", "--json").json()
    demo.place.run("cache", "gc", "--max-size", "100GiB")
    after = demo.place.run("cache", "stats", "--json").json()

    assert after["results"] == before["results"]
    assert after["pinned_trees"] == before["pinned_trees"] > 0
