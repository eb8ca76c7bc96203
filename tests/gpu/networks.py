"""Networks for the GPU check: ONNX files in several precisions, samples, and PyTorch's answers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper

from orchestrator.locations import resolve
from orchestrator.numerics.calibration import Calibration
from orchestrator.numerics.half import lower_to_half
from orchestrator.numerics.half_types import FP16
from orchestrator.numerics.quantization import Selection, quantize
from tests.gpu import models

OPSET = 17
BATCHES = (1, 8, 32)
OPERATORS = ["Conv", "ConvTranspose", "MatMul", "Gemm"]
Array = np.ndarray[Any, Any]


@dataclass
class Example:
    """A network ready to be built.

    Attributes:
        inputs: Declared sizes of each input.
        dims: (min, opt, max) of each named dimension.
        onnx: ONNX files by precision.
        samples: npz files of inputs, from the smallest batch to the largest.
        reference: What PyTorch gives for each of them.
        calibration: npz files for calibrators.
    """

    inputs: dict[str, list[int | str]]
    dims: dict[str, tuple[int, int, int]]
    onnx: dict[str, Path]
    samples: list[Path]
    reference: list[Array]
    calibration: list[Path] = field(default_factory=list)


def build_example(name: str, folder: Path) -> Example:
    """Return the network called *name*, its files written to *folder*."""
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    if name == "custom":
        return _only_graph(folder, _custom())
    if name == "nonzero":
        return _nonzero(folder)
    if name.startswith("digits"):
        module, images = _digits(other=name != "digits")
    else:
        module = models.torchvision_model(name)
        images = models.images(dims={"batch": 64}, offset=0, seed=2)["image"]
    return _convolutional(folder, module, images)


def _digits(*, other: bool) -> tuple[torch.nn.Module, Array]:
    from safetensors.torch import load_file

    from orchestrator.examples.digits.model import DigitsNet

    here = Path.cwd()
    module = DigitsNet()
    weights = resolve("pkg://orchestrator.examples.digits/weights.safetensors", here)
    module.load_state_dict(load_file(str(weights)))
    if other:
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.mul_(1.1)
    data = np.load(resolve("pkg://orchestrator.examples.digits/data.npz", here))
    images = data["test_images"].astype(np.float32) / 16
    return module.eval(), images.reshape(-1, 1, 8, 8)


def _convolutional(folder: Path, module: torch.nn.Module, images: Array) -> Example:
    example = Example(
        inputs={"image": ["batch", *images.shape[1:]]},
        dims={"batch": BATCHES},
        onnx={},
        samples=[],
        reference=[],
    )
    for number, size in enumerate(BATCHES):
        batch = images[:size]
        path = folder / f"sample-{number}.npz"
        np.savez(path, image=batch)
        example.samples.append(path)
        with torch.inference_mode():
            example.reference.append(module(torch.from_numpy(batch)).numpy())
    for number in range(4):
        path = folder / f"calibration-{number}.npz"
        np.savez(path, image=images[8 * number : 8 * number + 8])
        example.calibration.append(path)
    exported = folder / "exported.onnx"
    torch.onnx.export(
        module,
        (torch.from_numpy(images[:2]),),
        str(exported),
        dynamo=False,
        opset_version=OPSET,
        input_names=["image"],
        output_names=["logits"],
        dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}},
    )
    example.onnx["fp32"] = _write(onnx.load(exported), folder / "fp32")
    example.onnx["fp16"] = _write(lower_to_half(onnx.load(exported), FP16)[0], folder / "fp16")
    example.onnx["int8"] = _write(_quantized(exported, example, folder), folder / "int8")
    return example


def _quantized(exported: Path, example: Example, folder: Path) -> onnx.ModelProto:
    def batches() -> Iterator[dict[str, Array]]:
        for path in example.calibration:
            with np.load(path) as arrays:
                yield dict(arrays)

    scratch = folder / "scratch"
    scratch.mkdir()
    what = Selection(op_types=OPERATORS, keep_op_types=[], keep_nodes=[], per_channel=True)
    how = Calibration(method="minmax", scratch=scratch, threads=4)
    return quantize(onnx.load(exported), batches, what, how)[0]


def _write(model: onnx.ModelProto, folder: Path) -> Path:
    """Write a model in one file, whatever its size: it travels as one."""
    folder.mkdir()
    path = folder / "model.onnx"
    onnx.save(model, path)
    return path


def _custom() -> onnx.ModelProto:
    node = helper.make_node("Frobnicate", ["x"], ["y"], name="strange", domain="nobody")
    return _graph([node], TensorProto.FLOAT, ["batch", 4])


def _graph(nodes: list[onnx.NodeProto], out: int, shape: list[int | str]) -> onnx.ModelProto:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])
    y = helper.make_tensor_value_info("y", out, shape)
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("nobody", 1)]
    return helper.make_model(
        helper.make_graph(nodes, "g", [x], [y]), opset_imports=opsets, ir_version=8
    )


def _only_graph(folder: Path, model: onnx.ModelProto) -> Example:
    return Example(
        inputs={"x": ["batch", 4]},
        dims={"batch": BATCHES},
        onnx={"fp32": _write(model, folder / "fp32")},
        samples=[],
        reference=[],
    )


def _nonzero(folder: Path) -> Example:
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("NonZero", ["r"], ["y"]),
    ]
    example = _only_graph(folder, _graph(nodes, TensorProto.INT64, [2, "count"]))
    x = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
    np.savez(folder / "x.npz", x=x)
    example.samples.append(folder / "x.npz")
    example.reference.append(np.stack(np.nonzero(np.maximum(x, 0))))
    return example
