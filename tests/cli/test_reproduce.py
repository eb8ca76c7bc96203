"""``orchestrate reproduce``: a second build, compared in the sense that each stage declares."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.plan.reasons import History
from orchestrator.report.sameness import Build
from orchestrator.reproduce import surroundings
from orchestrator.store.results import Results
from tests.calling import call
from tests.cli.conftest import Experiments
from tests.command import Ran, Workplace

_OTHER = "0" * 64


def _lines(ran: Ran) -> dict[str, tuple[str, str]]:
    assert ran.out.startswith("{"), ran.text
    return {one["role"]: (one["verdict"], one["text"]) for one in ran.json()["actions"]}


def _doctored(
    experiments: Experiments, root: Path, change: Callable[[dict[str, Any]], None]
) -> Workplace:
    """Return a copy whose experiment ``again`` has a manifest that *change* has changed."""
    place = experiments.place.copied(root)
    path = place.directory / "outputs" / "again" / "manifest.json"
    # The links lead to the store that was copied; without them the configured one counts.
    no_links = shutil.ignore_patterns("artifacts")
    shutil.copytree(experiments.again, path.parent, ignore=no_links)
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))
    return place


def _entry(manifest: dict[str, Any], role: str) -> dict[str, Any]:
    (found,) = [one for one in manifest["actions"] if one["role"] == role]
    entry: dict[str, Any] = found  # the entry itself, to be changed
    return entry


@pytest.mark.slow
def test_a_clean_build_gives_the_same(experiments: Experiments) -> None:
    left = set(experiments.place.temporary.iterdir())
    before = set(experiments.place.store.rglob("*.json"))
    ran = experiments.place.run("reproduce", str(experiments.again), "--clean", "-q", "--json")
    lines = _lines(ran)

    assert ran.code == 0
    assert {verdict for verdict, _ in lines.values()} == {"same bytes"}
    assert {"samples", "export", "build", "judge session", "audit"} <= set(lines)
    assert not any("from the store" in text for _, text in lines.values())
    assert ran.json()["notes"] == []
    assert not {one.name for one in set(experiments.place.temporary.iterdir()) - left} - {
        f"torchinductor_{name}" for name in ("root", Path.home().name)
    }
    assert set(experiments.place.store.rglob("*.json")) == before


def test_a_build_in_the_same_store_says_what_it_did_not_run(experiments: Experiments) -> None:
    ran = experiments.place.run("reproduce", str(experiments.again), "-q")

    assert ran.code == 0
    assert "from the store, not run again" in ran.out
    assert "--clean does that" in ran.out


@pytest.mark.slow
def test_an_edit_since_then_is_a_difference_with_its_reason(experiments: Experiments) -> None:
    directory = experiments.first / "audit=default"
    ran = experiments.place.run("reproduce", str(directory), "-q", "--json")
    lines = _lines(ran)

    assert ran.code == 1
    assert lines["samples"][0] == "same bytes"
    assert lines["export"][0] == "differs"
    assert "model source changed: backbone.py" in lines["export"][1]
    assert lines["simplify"] == ("differs", "its input 'onnx' changed (from export)")
    # The reference promises a verdict only, and both were judged well.
    assert lines["reference"][0] == "same verdict"
    assert "onnx passed" in lines["reference"][1]


def test_each_stage_is_compared_in_its_own_sense(experiments: Experiments, tmp_path: Path) -> None:
    def change(manifest: dict[str, Any]) -> None:
        _entry(manifest, "simplify")["outputs"]["onnx"] = _OTHER
        _entry(manifest, "reference")["outputs"]["outputs"] = _OTHER
        judged = _entry(manifest, "judge onnx")
        judged["key"] = _OTHER
        judged["values"] = {**judged["values"], "points": {}}
        _entry(manifest, "export")["tools"]["torch"] = "0.1"
        manifest["orchestrate"] = "0.0"
        measured = {**_entry(manifest, "audit"), "role": "benchmark", "stage": "benchmark"}
        manifest["actions"].append(measured)

    place = _doctored(experiments, tmp_path, change)
    ran = place.run("reproduce", "outputs/again", "-q", "--json")
    lines, notes = _lines(ran), " ".join(ran.json()["notes"])

    assert ran.code == 1
    assert lines["simplify"][0] == "differs"
    assert "the key is the same" in lines["simplify"][1]
    assert lines["reference"][0] == "same verdict"
    assert lines["judge onnx"][0] == "same verdict"
    assert lines["benchmark"] == ("not compared", "a measurement")
    assert lines["export"][0] == "same bytes"
    assert "tools differ from the recorded ones: torch 0.1 → " in notes
    assert "built by orchestrate 0.0" in notes
    assert str(experiments.place.directory) in notes


@pytest.mark.slow
def test_another_verdict_is_a_difference(experiments: Experiments, tmp_path: Path) -> None:
    def change(manifest: dict[str, Any]) -> None:
        _entry(manifest, "build")["outputs"]["session"] = _OTHER
        audited = _entry(manifest, "audit")
        audited["key"], audited["values"]["verdict"] = _OTHER, "refuted"

    place = _doctored(experiments, tmp_path, change)
    ran = place.run("reproduce", "outputs/again", "-q", "--json")
    lines = _lines(ran)

    assert ran.code == 1
    assert lines["build"][0] == "differs"
    assert "audit was refuted (failed), is proved (passed)" in lines["build"][1]
    assert lines["canonicalize"][0] == "same bytes"
    assert lines["judge onnx"][0] == "same bytes"


def test_another_machine_is_said(experiments: Experiments, tmp_path: Path) -> None:
    place = _doctored(experiments, tmp_path, lambda _: None)
    for path in (place.store / "actions").rglob("*.json"):
        result = json.loads(path.read_text())
        if result["material"]["machine"]:
            result["material"]["machine"]["model"] = "Abacus 1"
        path.write_text(json.dumps(result))
    manifest = json.loads((experiments.again / "manifest.json").read_text())
    first = Build(manifest=manifest, history=History(Results(place.store)))
    second = Build(manifest=manifest, history=History(Results(experiments.place.store)))
    gone = Build(manifest=manifest, history=None)

    assert list(surroundings(second, second, "")) == []
    (said,) = surroundings(first, second, "")
    assert said.startswith("the machine differs: built on Abacus 1, this is ")
    (said,) = surroundings(gone, second, str(Path.cwd()))
    assert "not known: its store is gone" in said


@pytest.mark.slow
def test_a_failure_is_reproduced_too(experiments: Experiments) -> None:
    ran = experiments.place.run("reproduce", str(experiments.failed), "-q", "--json")
    lines = _lines(ran)

    assert ran.code == 0, ran.text
    # Export and reference fail; the first to end leaves the other out.
    assert {verdict for verdict, _ in lines.values()} <= {
        "same bytes",
        "same failure",
        "not compared",
    }
    assert "same failure" in {verdict for verdict, _ in lines.values()}
    assert "no weights for you" in str(lines)


@pytest.mark.parametrize(
    ("directory", "message"),
    [
        ("nowhere", "no such directory"),
        ("empty", "it has no manifest.json"),
        ("outputs/first", "the directory of a sweep with 2 variants"),
        ("unsaved", "the saved configuration is gone"),
        ("torn", "the saved configuration cannot be read"),
        ("foreign", "is no configuration that orchestrate saved"),
        ("outgrown", "unknown key 'nonsense'"),
    ],
)
def test_wrong_directories_are_one_clear_message(
    experiments: Experiments, tmp_path: Path, directory: str, message: str
) -> None:
    place = Workplace.at(tmp_path)
    (place.directory / "empty").mkdir()
    shutil.copytree(experiments.first, place.directory / "outputs" / "first", symlinks=True)
    for name in ("unsaved", "torn", "foreign", "outgrown"):
        shutil.copytree(experiments.again, place.directory / name, symlinks=True)
    shutil.rmtree(place.directory / "unsaved" / ".hydra")
    (place.directory / "torn" / ".hydra" / "config.yaml").write_text("a: [")
    (place.directory / "foreign" / ".hydra" / "hydra.yaml").write_text("- 1\n")
    with (place.directory / "outgrown" / ".hydra" / "config.yaml").open("a") as file:
        file.write("nonsense: 1\n")
    ran = call(place, "reproduce", directory, "-q")

    assert ran.code == 2, ran.text
    assert ran.err.startswith("error: ")
    assert message in ran.err
    assert "Traceback" not in ran.text
