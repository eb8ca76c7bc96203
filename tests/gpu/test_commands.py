from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from orchestrator.backends.tensorrt.transport import BOOTSTRAP
from tests.gpu.check_orchestrate import MODELS, main
from tests.gpu.commands import Command, workplace
from tests.gpu.rows import OutOfTimeError, Rows
from tests.gpu.steps.processes import MARK, marked


@pytest.fixture
def command(tmp_path: Path) -> Command:
    rows = Rows(path=tmp_path / "rows.jsonl")
    return Command(place=workplace(tmp_path), rows=rows, toolchain=["env", "A=b, [c]", "it's"])


def test_words_of_the_toolchain_arrive_as_they_are(command: Command) -> None:
    timed = command.run("build", "--cfg", "job", *command.words("resnet50", "precision=int8"))
    found = yaml.safe_load(timed.ran.out)
    assert found["toolchain"]["command"] == ["env", "A=b, [c]", "it's"]
    assert found["toolchain"]["name"] == "trt86"
    assert found["target"]["tactic_sources"] == ["-CUBLAS", "-CUBLAS_LT", "-CUDNN"]
    assert found["compare"]["name"] == "random_weights"
    assert found["exporter"]["opset"] == 17


def test_every_network_of_the_check_can_be_planned(tmp_path: Path) -> None:
    rows = Rows(path=tmp_path / "rows.jsonl")
    command = Command(place=workplace(tmp_path), rows=rows, target="onnxruntime_cpu")
    words = command.words(f"{','.join(MODELS)}", "precision=fp32,int8")
    timed = command.run("plan", "-m", *words)
    assert timed.ran.code == 0, timed.ran.text
    assert f"{2 * len(MODELS)} variants" in timed.ran.out


def test_a_command_ends_with_the_visits_time(tmp_path: Path) -> None:
    rows = Rows(path=tmp_path / "rows.jsonl", budget_s=-29)
    command = Command(place=workplace(tmp_path), rows=rows, target="onnxruntime_cpu")
    with pytest.raises(OutOfTimeError):
        command.run("build", *command.words("digits", "benchmark.measure_ms=60000"))


def test_a_toolchains_process_is_found_by_its_mark() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", BOOTSTRAP],
        stdin=subprocess.PIPE,
        env={**os.environ, MARK: "found-by-this"},
    )
    try:
        while process.poll() is None and not marked("found-by-this"):
            time.sleep(0.01)  # the kernel shows a new program's words a little late
        assert marked("found-by-this") == {process.pid}
        assert marked("another") == set()
    finally:
        process.kill()
        process.communicate()


def test_steps_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--work", str(tmp_path), "--list"]) == 0
    names = capsys.readouterr().out.splitlines()
    assert names[0] == "sweep digits"
    assert len(names) == len(set(names))
    assert {f"sweep {model}" for model in MODELS} <= set(names)
