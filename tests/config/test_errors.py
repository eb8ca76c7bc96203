"""Errors in a user's own files: the key's full path, the file, what was expected, a near name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from orchestrator.config.batch import BatchTask
from orchestrator.config.compose import Composer
from orchestrator.config.data import CallableData
from orchestrator.config.schema import Benchmark
from orchestrator.errors import ConfigError
from tests.config.compose import checked, refusal, write_conf

MODEL = """\
name: mine
factory: nets:Net
inputs: {x: {dtype: float32, shape: [batch, 4]}}
outputs: [y]
dims: {batch: {min: 1, opt: 2, max: 4}}
samples: {kind: generator}
"""


@pytest.fixture(autouse=True)
def _project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_conf(tmp_path, {"model/mine": MODEL})


def test_the_base_is_valid() -> None:
    assert checked("model=mine").model.factory == "nets:Net"


# Group, text of conf/GROUP/wrong.yaml (above the group's default option), key, part of the message.
WRONG_KEYS = [
    ("model", "defaults: [mine, _self_]\noutput: [y]\n", "model.output", "outputs"),
    ("exporter", "defaults: [dynamo, _self_]\nopsett: 18\n", "exporter.opsett", "opset"),
    (
        "simplifier",
        "defaults: [onnxsim, _self_]\nfuse_bach_norm: true\n",
        "simplifier.fuse_bach_norm",
        "fuse_batch_norm",
    ),
    (
        "precision",
        "defaults: [int8, _self_]\nper_chanel: true\n",
        "precision.per_chanel",
        "per_channel",
    ),
    ("calibration", "defaults: [minmax, _self_]\ncounts: 3\n", "calibration.counts", "count"),
    ("profile", "defaults: [declared, _self_]\ndim: {}\n", "profile.dim", "dims"),
    ("target", "defaults: [onnxruntime_cpu, _self_]\ndevise: cpu\n", "target.devise", "device"),
    ("toolchain", "defaults: [local, _self_]\ncomand: []\n", "toolchain.comand", "command"),
    ("compare", "defaults: [default, _self_]\nfp61: {}\n", "compare.fp61", "fp16"),
    ("benchmark", "defaults: [none, _self_]\nwarmup: 3\n", "benchmark.warmup", "warmup_ms"),
    ("cache", "defaults: [default, _self_]\nslat: a\n", "cache.slat", "salt"),
    ("executor", "defaults: [local, _self_]\nworker: 3\n", "executor.worker", "workers"),
]


@pytest.mark.parametrize(
    ("group", "text", "key", "near"), WRONG_KEYS, ids=[case[0] for case in WRONG_KEYS]
)
def test_an_unknown_key_names_the_file(
    tmp_path: Path, group: str, text: str, key: str, near: str
) -> None:
    write_conf(tmp_path, {f"{group}/wrong": text})
    error = refusal(f"{group}=wrong")

    assert error.message == f"unknown key '{key.rpartition('.')[2]}'"
    assert error.where == f"{key} (conf/{group}/wrong.yaml)"
    assert error.hint == f"did you mean '{near}'?"


def test_without_a_near_name_all_are_listed() -> None:
    error = refusal("+cache.colour=red")

    assert error.hint == "known keys: dir, max_size_gib, salt"


# Text of conf/model/wrong.yaml, key, part of the message.
WRONG_VALUES = [
    ("batches: many", "model.batches", "valid integer; got 'many'"),
    ("batches: true", "model.batches", "valid integer; got True"),
    ("outputs: y", "model.outputs", "valid list; got 'y'"),
    ("outputs: []", "model.outputs", "at least 1 item"),
    ("inputs: {x: {dtype: float, shape: [2]}}", "model.inputs.x.dtype", "float32"),
    ("inputs: {x: {dtype: float32, shape: [0]}}", "model.inputs.x.shape.0", "equal to 1; got 0"),
    ("dims: {batch: {min: 1, opt: 2}}", "model.dims.batch.max", ""),
    ("dims: {batch: {min: 3, opt: 2, max: 4}}", "model.dims.batch", "min <= opt <= max"),
    ("factory: nets.Net", "model.factory", "package.module:name"),
    ("onnx: net.onnx", "model", "exactly one of factory and onnx"),
    ("samples: {kind: generated}", "model.samples", "generator"),
    ("samples: {kind: npz, arrays: [x]}", "model.samples.arrays", ""),
    ("samples: {kind: npz, scales: 2}", "model.samples.scales", "unknown key"),
    ("checkpoint: {}", "model.checkpoint.path", "a value is needed"),
    ("checkpoint: {path: '???'}", "model.checkpoint.path", ""),
]


@pytest.mark.parametrize(
    ("text", "key", "says"), WRONG_VALUES, ids=[case[0] for case in WRONG_VALUES]
)
def test_a_wrong_value_names_key_and_file(tmp_path: Path, text: str, key: str, says: str) -> None:
    name = text.partition(":")[0]
    kept = "".join(line for line in MODEL.splitlines(True) if not line.startswith(f"{name}:"))
    write_conf(tmp_path, {"model/wrong": f"{kept}{text}\n"})
    error = refusal("model=wrong")

    assert error.where.startswith(key)
    assert says in error.message
    assert "model/wrong.yaml" in error.where or error.where == key
    assert "pydantic" not in error.render()


def test_a_key_from_a_defaults_list_names_the_file_that_has_it(tmp_path: Path) -> None:
    write_conf(
        tmp_path,
        {
            "model/base": MODEL + "batchs: 3\n",
            "model/derived": "defaults: [base, _self_]\nname: derived\n",
        },
    )

    assert refusal("model=derived").where == "model.batchs (conf/model/base.yaml)"


def test_the_command_line_is_named() -> None:
    error = refusal("model=mine", "model.batches=none")

    assert error.where == "model.batches (command line)"


def test_several_errors_at_once_are_all_named(tmp_path: Path) -> None:
    text = MODEL + "batchs: 3\nfile: x\n"
    write_conf(tmp_path, {"model/wrong": text})
    error = refusal("model=wrong")

    assert error.where.startswith("model.batchs")
    assert "also wrong: model.file" in error.hint


def test_a_file_that_is_no_yaml(tmp_path: Path) -> None:
    write_conf(tmp_path, {"model/wrong": "name: [\n"})
    error = refusal("model=wrong")

    assert error.exit_code == 2
    assert error.where == "conf/model/wrong.yaml, line 2"
    assert error.message.startswith("is no YAML: ")


def test_defaults_lists_in_a_circle(tmp_path: Path) -> None:
    write_conf(
        tmp_path,
        {
            "model/mine": "defaults: [other, _self_]\nname: mine\n",
            "model/other": "defaults: [mine, _self_]\nname: other\n",
        },
    )
    error = refusal("model=mine")
    assert "lead back to where they began" in error.message
    assert "name each other" in error.hint


def test_an_option_that_is_not_there_lists_the_user_s_too(tmp_path: Path) -> None:
    assert refusal("model=nothing_like_it").hint == "available: digits, mine, minilm"
    assert refusal("model=minee").hint == "did you mean 'mine'?"


def test_a_primary_configuration_of_the_user_s_own(tmp_path: Path) -> None:
    write_conf(tmp_path, {"orchestrate": "defaults: [{model: mine}, _self_]\n"})

    # It comes before the built-in one and is then incomplete.
    assert refusal().message == "a value is needed here"


def test_a_value_from_the_environment_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "s3cr3t-enough")
    direct = refusal("model=mine", "+model.batches=${oc.env:TOKEN}")
    through = refusal("precision.name=${experiment.name}", "experiment.name=${oc.env:TOKEN}")

    assert direct.message == "expected a valid integer; got the value of ${oc.env:TOKEN}"
    assert through.message.endswith("bf16, int8, fp8; got the value of ${oc.env:TOKEN}")
    for error in (direct, through):
        assert "s3cr3t" not in error.render()
        assert error.__suppress_context__


@pytest.mark.parametrize("override", ["model.batches=1", "model.args={width: 3}"])
def test_a_field_that_no_file_has_is_added_with_a_plus(override: str) -> None:
    error = refusal("model=mine", override)
    key = override.partition("=")[0]

    assert error.where == f"{key} (command line)"
    assert error.hint == f"to add it write +{key}=..."


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ({"k": float("nan")}, "k is nan"),
        ({"k": [1, {"deep": float("-inf")}]}, "k.1.deep is -inf"),
        ({"k": {1: 5}}, "k has the key 1"),
        ({"k": b"x"}, "k is bytes"),
    ],
)
def test_arguments_are_what_json_can_hold(args: dict[str, object], says: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(says)):
        CallableData(kind="callable", function="a:b", args=args)


def test_numbers_are_finite() -> None:
    with pytest.raises(ValidationError, match="finite"):
        Benchmark(measure_ms=float("inf"))


def test_a_file_that_is_not_utf_8(tmp_path: Path) -> None:
    (tmp_path / "conf" / "model" / "latin.yaml").write_bytes(b"# one\nname: caf\xe9\n")
    error = refusal("model=latin")

    assert (error.where, error.message) == ("conf/model/latin.yaml, line 2", "is no UTF-8")


def test_a_group_of_nothing() -> None:
    error = refusal("hydra/job_logging=null")

    assert error.where == "override 'hydra/job_logging=null'"


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("hydra.output_subdir=null", "hydra.output_subdir"),
        ("hydra.output_subdir=a/b", "hydra.output_subdir"),
        ("hydra.sweep.subdir=mine", "hydra.sweep.subdir"),
    ],
)
def test_what_hydra_offers_and_we_do_not(override: str, key: str) -> None:
    assert refusal("model=mine", override).where == key


def test_a_sweep_with_a_primary_configuration_that_names_no_launcher(tmp_path: Path) -> None:
    write_conf(tmp_path, {"orchestrate": "defaults: [{model: mine}, _self_]\n"})
    task = BatchTask(run=lambda batch: [])
    with Composer() as composer, pytest.raises(ConfigError) as caught:
        composer.run(["model=mine,digits"], task, multirun=True)

    assert "- override hydra/launcher: orchestrate" in caught.value.hint
    assert [path.name for path in tmp_path.iterdir()] == ["conf"]
