"""A real transformer in each lowered precision, with padded sentences in the batch."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx.version_converter
import pytest
import torch

from orchestrator.numerics.calibration import Calibration
from orchestrator.numerics.half import lower_to_half
from orchestrator.numerics.half_types import BF16, FP16
from orchestrator.numerics.quantization import Selection, quantize
from orchestrator.numerics.quantized_types import FP8
from orchestrator.numerics.widen import widen_bf16
from tests.numerics.onnx_graphs import Array, run


@dataclass
class Encoder:
    """The exported encoder, token ids with their mask, and PyTorch's answers alone and together."""

    model: onnx.ModelProto
    feeds: list[dict[str, Array]]
    expected: list[Array]

    def least_cosine(self, lowered: onnx.ModelProto, *, optimize: bool = True) -> float:
        """Return the worst cosine between an embedding of *lowered* and PyTorch's."""
        cosines = []
        for feed, expected in zip(self.feeds, self.expected, strict=True):
            [found] = run(lowered, feed, optimize=optimize)
            lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
            cosines.append(float(((expected * found).sum(1) / lengths).min()))
        return min(cosines)


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    package = pytest.importorskip("orchestrator.examples.minilm.package")
    model_module = pytest.importorskip("orchestrator.examples.minilm.model")
    pytest.importorskip(package.PACKAGE, reason="the weights of minilm are not installed")
    torch.set_num_threads(1)
    module = model_module.sentence_encoder()
    ids = torch.randint(1000, 20000, (3, 12), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    mask[2, 1:] = 0
    buffer = io.BytesIO()
    axes = {0: "batch", 1: "length"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            (ids, mask),
            buffer,  # type: ignore[arg-type]
            dynamo=False,
            opset_version=17,
            input_names=["input_ids", "attention_mask"],
            dynamic_axes={"input_ids": axes, "attention_mask": axes},
        )
    feeds, expected = [], []
    for rows in (slice(0, 3), slice(2, 3)):
        feeds.append({"input_ids": ids[rows].numpy(), "attention_mask": mask[rows].numpy()})
        with torch.inference_mode():
            expected.append(module(ids[rows], mask[rows]).numpy())
    return Encoder(onnx.load_from_string(buffer.getvalue()), feeds, expected)


@pytest.fixture(scope="module")
def newer(encoder: Encoder) -> onnx.ModelProto:
    """The encoder at an opset that has bfloat16 and 8-bit floats."""
    return onnx.version_converter.convert_version(encoder.model, BF16.least_opset)


def test_fp16(encoder: Encoder) -> None:
    lowered, report = lower_to_half(encoder.model, FP16)
    assert report.kept == {}
    assert report.constants.sentinels
    assert encoder.least_cosine(lowered) > 0.9995


@pytest.mark.slow
def test_bf16(encoder: Encoder, newer: onnx.ModelProto) -> None:
    lowered, report = lower_to_half(newer, BF16)
    assert report.kept == {}
    assert report.constants.sentinels, "its mask is the limit of fp32"
    assert report.constants.flushed == 0
    assert report.lowered["MatMul"] == 48
    assert encoder.least_cosine(widen_bf16(lowered), optimize=False) > 0.999


@pytest.mark.slow
def test_fp8(encoder: Encoder, newer: onnx.ModelProto, tmp_path: Path) -> None:
    quantized, report = quantize(
        newer,
        lambda: iter(encoder.feeds),
        Selection(op_types=["Conv", "MatMul", "Gemm"]),
        Calibration(scratch=tmp_path),
        FP8,
    )
    assert report.quantized == {"MatMul": 48}
    assert report.without_kernel == {}
    # ONNX Runtime's optimizer would put fp8 into operators that take no such type.
    assert encoder.least_cosine(quantized, optimize=False) > 0.99
