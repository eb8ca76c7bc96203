"""Options about layers and tensors, on a network that stands in for TensorRT's.

TensorRT makes no network without a GPU; that these names exist is test_contract.py's.
"""

from __future__ import annotations

import enum
import io
import time
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.backends.tensorrt import worker
from orchestrator.backends.tensorrt.worker import NetworkLayer

DataType = enum.Enum("DataType", ["FLOAT", "HALF", "INT8", "INT32"])
LayerType = enum.Enum("LayerType", ["CONVOLUTION", "CONSTANT", "SHAPE"])
DeviceType = enum.Enum("DeviceType", ["GPU", "DLA"])
BuilderFlag = enum.Enum("BuilderFlag", ["GPU_FALLBACK"])
TensorFormat = enum.IntEnum("TensorFormat", ["LINEAR", "CHW2", "CHW16"], start=0)
TRT = SimpleNamespace(
    __version__="8.6.1",
    DataType=DataType,
    LayerType=LayerType,
    DeviceType=DeviceType,
    BuilderFlag=BuilderFlag,
    TensorFormat=TensorFormat,
)


class Tensor(SimpleNamespace):
    def __init__(self, name: str, dtype: Any = DataType.FLOAT, *, shape: bool = False) -> None:
        super().__init__(name=name, dtype=dtype, is_shape_tensor=shape, allowed_formats=None)


class Layer(SimpleNamespace):
    def __init__(
        self, name: str, *outputs: Tensor, node: str = "", kind: Any = LayerType.CONVOLUTION
    ) -> None:
        metadata = f"[ONNX Layer: {node}]" if node else ""
        super().__init__(name=name, metadata=metadata, type=kind, num_outputs=len(outputs))
        self.outputs = outputs
        self.precision: Any = None
        self.types: dict[int, Any] = {}

    def get_output(self, at: int) -> Tensor:
        return self.outputs[at]

    def set_output_type(self, at: int, dtype: Any) -> None:
        self.types[at] = dtype


class Network:
    def __init__(self) -> None:
        self.inputs = [Tensor("image"), Tensor("ids", DataType.INT32)]
        self.outputs = [Tensor("scores")]
        self.layers = [
            Layer("weights", Tensor("w"), node="conv1", kind=LayerType.CONSTANT),
            Layer("conv1", Tensor("a"), node="conv1"),
            Layer("conv1_relu", Tensor("b"), node="conv1"),
            Layer("shape", Tensor("s", DataType.INT32, shape=True), kind=LayerType.SHAPE),
            Layer("topk", Tensor("values"), Tensor("places", DataType.INT32)),
        ]
        self.num_inputs, self.num_outputs = len(self.inputs), len(self.outputs)
        self.num_layers = len(self.layers)
        self.debug: list[str] = []

    def get_input(self, at: int) -> Tensor:
        return self.inputs[at]

    def get_output(self, at: int) -> Tensor:
        return self.outputs[at]

    def get_layer(self, at: int) -> Layer:
        return self.layers[at]

    def mark_debug(self, tensor: Tensor) -> bool:
        self.debug.append(tensor.name)
        return bool(tensor.name != "b")


class Config:
    def __init__(self) -> None:
        self.devices: dict[str, Any] = {}
        self.fallback = False

    def get_flag(self, flag: Any) -> bool:
        assert flag is BuilderFlag.GPU_FALLBACK
        return self.fallback

    def set_device_type(self, layer: Layer, device: Any) -> None:
        self.devices[layer.name] = device

    def can_run_on_DLA(self, layer: Layer) -> bool:  # noqa: N802  (TensorRT's)
        return bool(layer.name.startswith("conv"))


@pytest.fixture
def work() -> Any:
    session = worker.Session(".", {}, worker.Channel(io.BytesIO(), lambda: None))
    session.trt = TRT
    return SimpleNamespace(session=session, network=Network(), config=Config())


def set_all(work: Any, options: dict[str, Any], mode: str = "weak", kept: Any = ()) -> None:
    worker.set_network(work, worker.option_steps(options), mode, set(kept))


LAYERS = [
    NetworkLayer("conv1", frozenset({"conv1"})),
    NetworkLayer("conv1_relu", frozenset({"conv1"})),
    NetworkLayer("(Unnamed Layer* 3) [Shuffle]", frozenset({"/block.1/Reshape"})),
    NetworkLayer("fc", frozenset({"fc"})),
]


@pytest.mark.parametrize(
    ("keys", "taken"),
    [
        (["conv1"], {0: "conv1", 1: "conv1"}),
        (["conv1", "conv1_relu"], {0: "conv1", 1: "conv1_relu"}),
        (["*"], {0: "*", 1: "*", 2: "*", 3: "*"}),
        (["*", "conv*", "conv1"], {0: "conv1", 1: "conv1", 2: "*", 3: "*"}),
        (["c*", "*relu"], {0: "c*", 1: "*relu"}),
        (["/block.1/*"], {2: "/block.1/*"}),
        (["(Unnamed Layer* 3) [Shuffle]"], {2: "(Unnamed Layer* 3) [Shuffle]"}),
        ([], {}),
    ],
)
def test_the_most_exact_name_wins(keys: list[str], taken: dict[int, str]) -> None:
    assert worker.assign("o", keys, LAYERS) == taken
    assert worker.assign("o", keys[::-1], LAYERS) == taken, "the order of keys says nothing"


def test_names_that_no_layer_has_are_refused_with_the_nearest() -> None:
    with pytest.raises(worker.Failure) as caught:
        worker.assign("layer_precisions", ["conv1", "conv_1", "x*"], LAYERS)
    assert caught.value.kind == "refused"
    assert caught.value.details["where"] == "target.layer_precisions"
    assert caught.value.message == (
        "layer_precisions: TensorRT's network has no layer 'conv_1'. did you mean 'conv1'?\n"
        "layer_precisions: TensorRT's network has no layer 'x*'."
    )
    assert "/block.1/Reshape, conv1, conv1_relu, fc" in caught.value.hint


def test_precisions_reach_layers_with_floats_only(work: Any) -> None:
    set_all(work, {"layer_precisions": {"*": "fp16", "conv1": "int8", "conv1_relu": "fp32"}})
    found = {layer.name: layer.precision for layer in work.network.layers}
    assert found == {
        "weights": None,
        "conv1": DataType.INT8,
        "conv1_relu": DataType.FLOAT,
        "shape": None,
        "topk": DataType.HALF,
    }


def test_a_layer_without_floats_has_no_precision(work: Any) -> None:
    with pytest.raises(worker.Failure, match="no layer of 'shape' computes floating-point"):
        set_all(work, {"layer_precisions": {"shape": "fp16"}})


def test_a_layer_cannot_be_kept_and_lowered(work: Any) -> None:
    set_all(work, {"layer_precisions": {"conv1": "fp32"}}, kept=["conv1"])
    with pytest.raises(worker.Failure, match=r"'conv1' is fp16, and precision\.keep_nodes"):
        set_all(work, {"layer_precisions": {"conv1": "fp16"}}, kept=["conv1"])


def test_output_types_are_one_for_all_or_one_each(work: Any) -> None:
    types = {"topk": ["fp16", "int32"], "conv*": "fp16"}
    set_all(work, {"layer_output_types": types})
    found = {layer.name: layer.types for layer in work.network.layers}
    assert found["topk"] == {0: DataType.HALF, 1: DataType.INT32}
    assert found["conv1"] == found["conv1_relu"] == {0: DataType.HALF}
    with pytest.raises(worker.Failure, match="given 2 types; layer 'conv1' has 1 outputs"):
        set_all(work, {"layer_output_types": {"conv1": ["fp16", "fp16"]}})


def test_patterns_leave_outputs_that_are_no_floats(work: Any) -> None:
    set_all(work, {"layer_output_types": {"t*": "fp16"}})
    assert work.network.layers[4].types == {0: DataType.HALF}


def test_devices_of_layers(work: Any) -> None:
    set_all(work, {"layer_device_types": {"*": "GPU", "conv*": "DLA"}})
    assert work.config.devices["topk"] is DeviceType.GPU
    assert work.config.devices["conv1"] is DeviceType.DLA
    with pytest.raises(worker.Failure, match="the DLA cannot run 'topk'"):
        set_all(work, {"layer_device_types": {"topk": "DLA"}})
    work.config.fallback = True
    set_all(work, {"layer_device_types": {"topk": "DLA"}})


def test_formats_of_inputs_and_outputs(work: Any) -> None:
    set_all(
        work,
        {"input_formats": {"image": "fp16:chw2+chw16"}, "output_formats": {"scores": "chw"}},
    )
    image, ids = work.network.inputs
    assert image.dtype is DataType.HALF
    assert image.allowed_formats == 0b110
    assert ids.allowed_formats is None
    assert work.network.outputs[0].dtype is DataType.FLOAT
    assert work.network.outputs[0].allowed_formats == 0b1


def test_types_of_a_typed_network_cannot_be_changed(work: Any) -> None:
    set_all(work, {"input_formats": {"image": "fp32:chw2"}}, mode="strong")
    assert work.network.inputs[0].allowed_formats == 0b10
    with pytest.raises(worker.Failure, match="'image' is FLOAT in this strongly typed network"):
        set_all(work, {"input_formats": {"image": "fp16:chw2"}}, mode="strong")


def test_formats_of_unknown_tensors_are_refused(work: Any) -> None:
    with pytest.raises(worker.Failure, match=r"no input 'imgae'\. did you mean 'image'\?"):
        set_all(work, {"input_formats": {"imgae": "chw"}})
    with pytest.raises(worker.Failure, match="no output 'image'"):
        set_all(work, {"output_formats": {"image": "chw"}})


def test_debug_tensors_are_inputs_or_outputs_of_layers(work: Any) -> None:
    set_all(work, {"mark_debug": ["a", "image"]})
    assert work.network.debug == ["a", "image"]
    with pytest.raises(worker.Failure, match=r"no tensor 'place'\. did you mean 'places'"):
        set_all(work, {"mark_debug": ["place"]})
    with pytest.raises(worker.Failure, match="mark_debug: 'b'"):
        set_all(work, {"mark_debug": ["b"]})


def test_types_of_layers_are_for_weak_typing(work: Any) -> None:
    for options in ({"layer_precisions": {"a": "fp16"}}, {"mix_with": ["fp16"]}):
        steps = worker.option_steps(options)
        with pytest.raises(worker.Failure, match="strongly typed, so every type is the model's"):
            worker.check_mode(work.session, {"mode": "strong"}, set(), steps)


def test_laps_add_up_to_the_whole_time() -> None:
    begun = time.perf_counter()
    laps = worker.Laps()
    for name in ("open", "build", "open", "serialize"):
        laps.lap(name)
    seconds = laps.report(inside="build")
    whole = time.perf_counter() - begun
    assert list(seconds) == ["open", "build", "serialize", "outside"]
    assert seconds["outside"] == pytest.approx(seconds["open"] + seconds["serialize"], abs=2e-4)
    assert seconds["outside"] + seconds["build"] <= whole + 2e-4
