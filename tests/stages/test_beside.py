from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnxruntime as ort
import pytest
import torch
from torch import nn

from orchestrator.backends import beside as planner
from orchestrator.backends.beside import cuda
from orchestrator.backends.beside.stopwatch import Stopwatch
from orchestrator.errors import StageError
from orchestrator.stages import beside, export
from orchestrator.stages.base import Repeats
from tests.backends import nets as onnx_nets
from tests.modules.samples import write_samples
from tests.stage_context import StageRun, run_stage

PROTOCOL = {
    "warmup_ms": 0.0, "measure_ms": 0.1, "min_runs": 7, "shapes": ["opt"], "transfers": True
}  # fmt: skip
ROOT = Path(planner.__file__).parents[3]
DIGITS = ROOT / "orchestrator/examples/digits/weights.safetensors"
IMAGE = {"image": {"dtype": "float32", "shape": ["batch", 1, 8, 8]}}
X = {"x": {"dtype": "float32", "shape": ["batch", 4]}}
POINTS = {"min": {"batch": 1}, "opt": {"batch": 3}, "max": {"batch": 8}}
GPU = pytest.param(
    "cuda",
    marks=pytest.mark.skipif(
        not torch.cuda.is_available(), reason="needs a GPU and a PyTorch for CUDA"
    ),
)
ORT_GPU = pytest.param(
    "cuda",
    marks=pytest.mark.skipif(
        "CUDAExecutionProvider" not in ort.get_available_providers()
        or not torch.cuda.is_available(),
        reason="needs a GPU, onnxruntime-gpu and a PyTorch for CUDA",
    ),
)
NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")


class Plain(nn.Module):
    """[batch, 4] -> [batch, 3]; says hello, and in which process it was made."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)
        print(f"made in process {os.getpid()}")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.fc(x)
        return result


class Stubborn(Plain):
    """Cannot be converted: what it is fed must have the type of a constant in its code."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.fc(x @ torch.eye(4, device=x.device))
        return result


class Crash(Plain):
    """Ends its process."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        os.abort()


def torch_params(factory: str, **changed: Any) -> dict[str, Any]:
    return {
        "engine": "torch",
        "device": "cpu",
        "precision": "fp32",
        "factory": factory if ":" in factory else f"tests.stages.test_beside:{factory}",
        "args": {},
        "checkpoint": None,
        "inputs": X,
        "outputs": ["y"],
        "benchmark": PROTOCOL,
        **changed,
    }


def digits_params(**changed: Any) -> dict[str, Any]:
    """Parameters of every stage that takes the module: export and reference take a part of them."""
    return torch_params(
        "orchestrator.examples.digits.model:DigitsNet",
        checkpoint={"strict": True},
        inputs=IMAGE,
        outputs=["logits"],
        **changed,
    )


def beside_torch(tmp_path: Path, params: Mapping[str, Any], **paths: Path) -> StageRun:
    samples = write_samples(tmp_path / "samples", params["inputs"], POINTS)
    return run_stage(beside.STAGE, tmp_path, params, {"samples": samples}, paths)


def assert_measured(values: Mapping[str, Any], device: str) -> None:
    """A row without transfers, one with them on a GPU, and the last one's numbers on top."""
    assert values["available"], values
    rows = values["measurements"]
    assert [row["transfers"] for row in rows] == [False, True][: 1 + (device == "cuda")]
    for row in rows:
        assert (row["point"], row["dims"], row["host"]["runs"] >= 7) == ("opt", {"batch": 3}, True)
        assert (row["event"] is not None) == (device == "cuda")
        assert (row["queued_ms"] is not None) == (device == "cuda")
    assert values["p50_ms"] == rows[-1]["host"]["p50_ms"] > 0
    assert values["dims"] == {"batch": 3}
    assert values["protocol"] == beside.PROTOCOL
    assert ("uuid" in values["machine"]) == (device == "cuda")


@pytest.mark.parametrize("device", ["cpu", GPU])
def test_pytorch_eager_is_measured_on_digits(tmp_path: Path, device: str) -> None:
    values = beside_torch(tmp_path, digits_params(device=device), checkpoint=DIGITS).values
    assert_measured(values, device)
    assert values["how"] == "eager, inference_mode"
    assert values["tf32"] is (False if device == "cuda" else None)
    assert values["versions"]["torch"] == torch.__version__


@pytest.mark.parametrize("device", ["cpu", ORT_GPU])
def test_onnx_runtime_is_measured_on_digits(tmp_path: Path, device: str) -> None:
    params = digits_params(
        exporter={"name": "torchscript", "opset": 17}, dims={"batch": [1, 8]}, order=["image"]
    )
    samples = write_samples(tmp_path / "samples", IMAGE, POINTS)
    exported = run_stage(
        export.STAGE, tmp_path, params, {"samples": samples}, {"checkpoint": DIGITS}
    )
    precision = "tf32" if device == "cuda" else "fp32"
    run = run_stage(
        beside.STAGE,
        tmp_path,
        {
            "engine": "onnxruntime",
            "device": device,
            "precision": precision,
            "benchmark": {**PROTOCOL, "threads": 2},
        },
        {"samples": samples, "onnx": exported.outputs["onnx"]},
    )
    assert_measured(run.values, device)
    assert run.values["tf32"] is (True if device == "cuda" else None)
    assert list(run.values["types"]) == ["float32"]
    assert run.values["providers"][0].startswith(device.upper())


def test_a_process_of_its_own_measures_every_point_asked_for(tmp_path: Path) -> None:
    params = torch_params("Plain", benchmark={**PROTOCOL, "shapes": ["max", "min"]})
    run = beside_torch(tmp_path, params)
    assert [row["point"] for row in run.values["measurements"]] == ["max", "min"]
    assert [row["host"]["items"] for row in run.values["measurements"]] == [1, 1]
    assert run.values["p50_ms"] == run.values["measurements"][0]["host"]["p50_ms"]
    assert run.values["dims"] == {"batch": 8}
    (made,) = [line for line in run.log if line.startswith("made in process ")]
    assert made != f"made in process {os.getpid()}"


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_lower_precision_converts_the_module(tmp_path: Path, precision: str) -> None:
    values = beside_torch(tmp_path, torch_params("Plain", precision=precision)).values
    lower = {"fp16": "float16", "bf16": "bfloat16"}[precision]
    assert values["how"] == f"eager, inference_mode, module.to({lower})"


def test_a_module_that_cannot_be_converted_runs_under_autocast(tmp_path: Path) -> None:
    run = beside_torch(tmp_path, torch_params("Stubborn", precision="bf16"))
    assert run.values["available"]
    assert run.values["how"] == "eager, inference_mode, autocast(bfloat16)"
    assert any("measured under autocast" in line for line in run.log)


def test_a_crash_is_a_reason_and_no_error(tmp_path: Path) -> None:
    run = beside_torch(tmp_path, torch_params("Crash"))
    assert run.values == {
        "engine": "torch",
        "device": "cpu",
        "precision": "fp32",
        "protocol": beside.PROTOCOL,
        "available": False,
        "reason": "PyTorch eager was ended by SIGABRT",
    }


@NO_GPU
def test_pytorch_without_a_gpu_says_so(tmp_path: Path) -> None:
    values = beside_torch(tmp_path, torch_params("Plain", device="cuda", uuid="GPU-0")).values
    assert not values["available"]
    expected = (
        "a build without CUDA" if torch.version.cuda is None else "does not see the GPU GPU-0"
    )
    assert expected in values["reason"]


@NO_GPU
def test_onnx_runtime_without_a_gpu_says_so(tmp_path: Path) -> None:
    values = beside_onnx(tmp_path, device="cuda", precision="tf32")
    assert not values["available"]
    assert "CUDA provider" in values["reason"]


def beside_onnx(tmp_path: Path, **changed: Any) -> dict[str, Any]:
    tree = onnx_nets.save(onnx_nets.matmul_net(), tmp_path / "onnx")
    samples = onnx_nets.samples(tmp_path / "samples", 8)
    params = {"engine": "onnxruntime", "device": "cpu", "benchmark": PROTOCOL, **changed}
    return run_stage(beside.STAGE, tmp_path, params, {"samples": samples, "onnx": tree}).values


def test_an_fp32_file_is_not_passed_off_as_fp16(tmp_path: Path) -> None:
    values = beside_onnx(tmp_path, precision="fp16")
    assert not values["available"]
    assert "holds no float16: its weights are float32" in values["reason"]


def test_samples_that_lack_an_input_are_the_users_to_mend(tmp_path: Path) -> None:
    samples = write_samples(tmp_path / "samples", X, POINTS)
    params = torch_params("Plain", inputs={"z": X["x"]})
    with pytest.raises(StageError, match="the samples have no input 'z'") as caught:
        run_stage(beside.STAGE, tmp_path, params, {"samples": samples})
    assert caught.value.where == "model.inputs.z"


@pytest.mark.parametrize(
    "wrong",
    [{"precision": "int8"}, {"engine": "jax"}, {"device": "cuda:1"}, {"engine": "onnxruntime"}],
)
def test_what_it_cannot_measure_is_the_planners_mistake(
    tmp_path: Path, wrong: dict[str, str]
) -> None:
    with pytest.raises(ValueError, match="mend the planner"):
        beside_torch(tmp_path, torch_params("Plain", **wrong))


class Order:
    """A clock and a GPU that only write down when they are asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.now_ns = 0

    def clock_ns(self) -> int:
        self.asked.append("clock")
        self.now_ns += 1_000_000
        return self.now_ns

    def begin(self) -> None:
        self.asked.append("begin")

    def end(self) -> None:
        self.asked.append("end")

    def wait(self) -> None:
        self.asked.append("wait")

    def elapsed_ms(self) -> float:
        self.asked.append("elapsed")
        return 0.25


def test_events_are_read_when_the_clock_has_stopped() -> None:
    order = Order()
    watch = Stopwatch(lambda: order.asked.append("call"), order, order.clock_ns)
    protocol = {"warmup_ms": 0, "measure_ms": 0, "min_runs": 2}
    found = watch.measured(protocol, items=4)
    once = ["clock", "begin", "call", "end", "wait", "clock", "elapsed"]
    warm_up, runs = ["clock", *once], ["clock", *once, *once]
    assert order.asked == [*warm_up, *runs, "clock", "call", "call", "wait", "clock"]
    assert found["host"]["p50_ms"] == 1.0
    assert (found["event"]["p50_ms"], found["event"]["runs"]) == (0.25, 2)  # not the warm-up's
    assert found["queued_ms"] == 0.5


def test_tf32_is_set_whatever_the_factory_set_before() -> None:
    backends: Any = torch.backends
    try:
        for on in (True, False):
            backends.fp32_precision = "tf32"
            backends.cudnn.conv.fp32_precision = "ieee" if on else "tf32"
            cuda.set_tf32(on)
            assert cuda.facts()["tf32"] is on
            # The older switches, which raise when they find the new ones at odds.
            assert (backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32) == (on, on)
    finally:
        backends.fp32_precision = "none"
        cuda.set_tf32(False)


def test_the_planner_sees_builds_for_cuda_without_importing_them(tmp_path: Path) -> None:
    libraries = tmp_path / "torch" / "lib"
    libraries.mkdir(parents=True)
    (tmp_path / "torch" / "__init__.py").write_text("raise RuntimeError('imported')\n")
    code = (
        "import sys; from orchestrator.backends.beside import available; "
        "print(available('torch'), {'torch', 'onnxruntime', 'numpy'} & set(sys.modules))"
    )

    def seen() -> str:
        environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
        return subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()

    assert seen() == "False set()"
    (libraries / "libtorch_cuda.so").touch()
    assert seen() == "True set()"


def test_the_planner_tells_the_two_onnx_runtimes_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert not planner.available("onnxruntime")
    for name, expected in (("onnxruntime_gpu", True), ("onnxruntime", False)):
        folder = tmp_path / f"{name}-1.31.1.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Name: {name.replace('_', '-')}\nVersion: 1.31.1\n")
        assert planner.available("onnxruntime") is expected  # two overwrite each other


def test_it_is_a_measurement_with_the_machine_for_itself() -> None:
    assert beside.STAGE.repeats is Repeats.MEASUREMENT
    assert beside.STAGE.exclusive
    assert beside.STAGE.tools_for({"engine": "torch"}) == ("torch",)
    assert not beside.STAGE.user_code  # a measurement is looked up by what is known beforehand
