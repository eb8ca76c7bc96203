"""A sweep that needs no torch: an ONNX file, ONNX Runtime, no benchmark; a run takes seconds."""

from __future__ import annotations

from pathlib import Path

import onnx

from tests.backends.nets import two_layer_net

#: Four variants with 17 actions, of which two have equal inputs (the judges of fp32).
WORDS = (
    "-m",
    "-q",
    "model=net",
    "precision=fp32,fp16",
    "compare=default,embedding",
    "simplifier=none",
    "benchmark=none",
)
_MODEL = """\
name: net
onnx: net.onnx
inputs: {x: {dtype: float32, shape: [batch, 16]}}
outputs: [y]
dims: {batch: {min: 1, opt: 4, max: 8}}
samples: {kind: generator}
"""


def make_project(directory: Path) -> None:
    """Write the model and its configuration below *directory*."""
    (directory / "conf" / "model").mkdir(parents=True)
    (directory / "conf" / "model" / "net.yaml").write_text(_MODEL)
    onnx.save_model(two_layer_net(4096), directory / "net.onnx")
