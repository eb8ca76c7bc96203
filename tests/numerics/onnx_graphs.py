"""Small ONNX graphs with structured weights, and how to run them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

Array = np.ndarray[Any, Any]


def f32(values: Any) -> Array:
    """Return *values* as a float32 array."""
    return np.asarray(values, dtype=np.float32)


def graph(text: str, *, opset: int = 17, **weights: Array) -> onnx.ModelProto:
    """Return the model of *text* (ONNX's textual syntax, the graph only) with initializers."""
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": {opset}]> {text}')
    for name, array in weights.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    onnx.checker.check_model(model, full_check=True)
    return model


def residual_net(*, opset: int = 17, width: int = 8) -> onnx.ModelProto:
    """Return a convolutional net, x [n,1,8,8] -> y [n,10], with every quantized operator type.

    Kernels are oriented waves, so the responses differ between channels as those of a trained net.

    Args:
        opset: Opset of the model.
        width: Channels of its convolutions.
    """
    channels = np.arange(width)
    axis = np.arange(3) - 1.0
    angle = channels.reshape(width, 1, 1) * np.pi / width
    waves = np.cos(1.5 * (np.cos(angle) * axis[:, None] + np.sin(angle) * axis)) - 0.3
    first = waves[:, None] * (1 + channels % 8).reshape(width, 1, 1, 1) / 4
    mix = np.cos(np.outer(channels, channels) * 0.7) / (width / 2)
    second = mix[:, :, None, None] * waves[None]
    up = np.cos(np.arange(width * 4 * 4).reshape(width, 4, 2, 2) * 0.37) / 3
    dense = np.sin(np.outer(np.arange(256), 1 + np.arange(16)) * 0.13) / 16
    head = np.cos(np.outer(1 + np.arange(10), np.arange(16)) * 0.41) / 4
    weights = {"w1": first, "w2": second, "wt": up, "wm": dense, "wg": head}
    biases = {"b1": np.linspace(-0.2, 0.2, width), "b2": np.linspace(0.1, -0.1, width)}
    biases |= {"bm": np.linspace(-1, 1, 16), "bg": np.linspace(-0.5, 0.5, 10)}
    return graph(
        """net (float[n,1,8,8] x) => (float[n,10] y) {
            c1 = Conv <pads = [1,1,1,1]> (x, w1, b1)
            r1 = Relu (c1)
            c2 = Conv <pads = [1,1,1,1]> (r1, w2, b2)
            a2 = Add (r1, c2)
            r2 = Relu (a2)
            p2 = MaxPool <kernel_shape = [2,2], strides = [2,2]> (r2)
            t3 = ConvTranspose <strides = [2,2]> (p2, wt)
            f3 = Flatten (t3)
            m4 = MatMul (f3, wm)
            n4 = Add (m4, bm)
            s4 = Tanh (n4)
            y = Gemm <transB = 1> (s4, wg, bg)
        }""",
        opset=opset,
        **{k: v.astype(np.float32) for k, v in (weights | biases).items()},
    )


def images(count: int, seed: int = 0) -> Array:
    """Return [count,1,8,8] float32 of blobs with noise, in 0..1."""
    rng = np.random.default_rng(seed)
    row, column = np.mgrid[0:8, 0:8]
    centre = rng.uniform(1, 7, (count, 2, 1, 1))
    blob = np.exp(-((row - centre[:, 0]) ** 2 + (column - centre[:, 1]) ** 2) / 4)
    noisy = blob + rng.normal(0, 0.05, blob.shape)
    return f32(np.clip(noisy, 0, 1)[:, None])


def run(model: onnx.ModelProto, feed: Mapping[str, Array], *, optimize: bool = True) -> list[Array]:
    """Run *model* in ONNX Runtime, which also checks that types agree at every operator."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options)
    return list(session.run(None, dict(feed)))


def snr_db(reference: Array, found: Array) -> float:
    """Return the signal-to-noise ratio of *found* in dB."""
    noise = float(((reference - found.astype(np.float64)) ** 2).sum())
    return float("inf") if noise == 0 else 10 * float(np.log10((reference**2).sum() / noise))


def types_of(model: onnx.ModelProto) -> dict[str, str]:
    """Return ``float`` / ``float16`` / ``int64`` … for every value of the main graph."""
    types = {
        value.name: value.type.tensor_type.elem_type
        for value in (*model.graph.value_info, *model.graph.input, *model.graph.output)
    }
    types.update({tensor.name: tensor.data_type for tensor in model.graph.initializer})
    return {name: TensorProto.DataType.Name(kind).lower() for name, kind in types.items()}


def node(model: onnx.ModelProto, op_type: str, index: int = 0) -> onnx.NodeProto:
    """Return the *index*-th node of *op_type* in the main graph."""
    return [found for found in model.graph.node if found.op_type == op_type][index]


def attribute(found: onnx.NodeProto, name: str, default: Any = None) -> Any:
    """Return an attribute of a node."""
    values = {entry.name: helper.get_attribute_value(entry) for entry in found.attribute}
    return values.get(name, default)
