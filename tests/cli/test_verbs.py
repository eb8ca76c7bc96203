"""The verbs beside ``build``: what they print, as text and as JSON, on an empty store."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from orchestrator import __version__
from orchestrator.cli.doctor import _print as print_findings
from orchestrator.config.schema import Config
from orchestrator.doctor import Finding
from tests.calling import call
from tests.command import Workplace


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """An empty working directory and an empty store; nothing here builds anything."""
    return Workplace.at(tmp_path_factory.mktemp("verbs"))


def test_plan_tells_what_would_run(place: Workplace) -> None:
    planned = place.watch("plan", "-m", "precision=fp32,fp16,int8", "--json")
    plan = json.loads(planned.out)
    stages = [one["stage"] for one in plan["actions"]]
    by_stage = {one["stage"]: one for one in plan["actions"]}

    assert planned.code == 0
    assert planned.heavy == []
    assert plan["variants"] == ["precision=fp32", "precision=fp16", "precision=int8"]
    assert stages.count("export") == 1
    assert by_stage["samples"]["state"] == "runs"
    assert by_stage["samples"]["reason"] == "not built before with these inputs"
    assert by_stage["export"]["state"] == "depends"
    assert by_stage["export"]["depends_on"] == ["samples"]
    assert by_stage["export"]["variants"] == plan["variants"]
    assert not (place.directory / "outputs").exists()


def test_plan_as_text(place: Workplace) -> None:
    planned = call(place, "plan")

    assert planned.code == 0
    assert "needs the output of samples" in planned.out
    assert "1 variant: " in planned.out


@pytest.mark.parametrize("action", ["stats", "verify", "gc"])
def test_cache_as_json(place: Workplace, action: str) -> None:
    ran = place.watch("cache", action, "--json")

    assert ran.code == 0
    assert isinstance(ran.json(), dict)
    assert ran.heavy == []
    assert call(place, "cache", action).code == 0


def test_cache_refuses_what_it_cannot_do(place: Workplace) -> None:
    nothing = call(place, "cache", "forget")
    unknown = call(place, "cache", "forget", "exprot")
    size = call(place, "cache", "gc", "--max-size", "plenty")
    verb = call(place, "cache", "statz")

    assert (nothing.code, size.code, verb.code) == (2, 2, 2)
    assert unknown.code == 3
    assert "no result matches 'exprot'" in unknown.err
    assert "500MB or 20GiB" in size.err
    for ran in (nothing, unknown, size, verb):
        assert ran.err.startswith("error: ")
        assert "Traceback" not in ran.err


def test_doctor(place: Workplace, capsys: pytest.CaptureFixture[str]) -> None:
    ran = place.run("doctor", "--json")
    findings = [Finding(**one) for one in ran.json()]
    found = {one.name: one for one in findings}
    print_findings(findings)
    text = capsys.readouterr().out

    assert ran.code == 0
    assert {"torch", "onnx", "imports", "backend onnxruntime", "store"} <= set(found)
    assert found["backend onnxruntime"].state == "ok"
    assert str(place.store) in found["store"].text
    for one in findings:
        assert one.state == "ok" or one.advice
        assert one.name in text


def test_schema_prints_one_group_or_writes_all(place: Workplace) -> None:
    one = call(place, "schema", "precision")
    written = call(place, "schema", "--to", "schemas")
    wrong = call(place, "schema", "presicion")
    names = {path.stem for path in (place.directory / "schemas").glob("*.json")}

    assert one.json()["properties"]["name"]["enum"] == [
        "fp32",
        "tf32",
        "fp16",
        "bf16",
        "int8",
        "fp8",
    ]
    assert written.code == 0
    assert names == set(Config.model_fields)
    assert wrong.code == 2
    assert "did you mean 'precision'?" in wrong.err


def test_cfg_prints_what_was_composed(place: Workplace) -> None:
    job = call(place, "--cfg", "job", "precision=fp16")
    part = call(place, "--cfg", "job", "--package", "precision", "precision=fp16")
    hydra = call(place, "--cfg", "hydra")

    assert "name: digits" in job.out
    assert "name: fp16" in job.out
    assert "name: digits" not in part.out
    assert "launcher:" in hydra.out
    assert "name: digits" not in hydra.out


def test_version(place: Workplace) -> None:
    ran = place.watch("--version")

    assert (ran.code, ran.out) == (0, f"orchestrate {__version__}\n")


@pytest.mark.parametrize("words", [("--help",), ("-h",), ("--version",)])
def test_help_imports_nothing_beyond_the_standard_library(
    place: Workplace, words: tuple[str, ...]
) -> None:
    ran = place.watch(*words)
    foreign = {name.partition(".")[0] for name in ran.modules} & {
        "hydra",
        "omegaconf",
        "pydantic",
        "rich",
        "yaml",
        "diskcache",
        *("torch", "numpy", "onnx", "onnxruntime"),
    }

    assert ran.code == 0
    assert foreign == set()


@pytest.mark.parametrize(
    "verb",
    ["build", "plan", "package", "cache", "check-plan", "doctor", "explain", "reproduce", "schema"],
)
def test_each_verb_has_help(place: Workplace, verb: str) -> None:
    ran = call(place, verb, "--help")

    assert ran.code == 0
    assert ran.out.startswith(f"usage: orchestrate {verb}")
    assert verb in call(place, "--help").out


def test_a_closed_pipe_is_no_error(place: Workplace) -> None:
    command = f"{sys.executable} -m orchestrator.cli.main --cfg job | head -1"
    ended = subprocess.run(
        ["bash", "-c", command],
        cwd=place.directory,
        env=place.environment(),
        capture_output=True,
        text=True,
        check=False,
    )

    assert ended.stderr == ""
