"""Which release has a name, and how each lowers a precision."""

from __future__ import annotations

import pytest

from orchestrator.backends.tensorrt.versions import (
    Version,
    available,
    greatest_opset,
    lowering,
    parse_version,
    since,
    supported,
    why_missing,
)
from orchestrator.errors import PlanError

V86, V100, V107, V1016, V114 = (
    parse_version(text) for text in ("8.6.0", "10.0.1", "10.7.0", "10.16.1.11", "11.4.0.106")
)
ALL = (V86, V100, V107, V1016, V114)


@pytest.mark.parametrize(
    ("text", "parts"),
    [("8.6.1", (8, 6, 1)), ("10.14.1.48.post1", (10, 14, 1, 48)), ("11.4.0.106", (11, 4, 0, 106))],
)
def test_versions_are_read_by_their_leading_numbers(text: str, parts: tuple[int, ...]) -> None:
    assert parse_version(text).parts == parts
    assert str(parse_version(text)) == text


def test_what_is_no_version_is_refused() -> None:
    with pytest.raises(PlanError, match="'ten' is not a TensorRT version"):
        parse_version("ten")


def test_versions_order_by_number_and_not_by_text() -> None:
    assert parse_version("8.6.1") < parse_version("10.0.1") < parse_version("10.10.0")


@pytest.mark.parametrize("text", ["8.5.3", "9.2.0", "7.0.0"])
def test_other_majors_are_refused(text: str) -> None:
    with pytest.raises(PlanError, match=f"trt has TensorRT {text}"):
        supported(parse_version(text), "trt")


def test_names_come_and_go() -> None:
    assert since("BuilderFlag.BF16") == ("10.0", "11.0")
    assert not available("BuilderFlag.BF16", V86)
    assert available("BuilderFlag.BF16", V1016)
    assert not available("BuilderFlag.BF16", V114)
    assert why_missing("BuilderFlag.BF16", V86) == "needs TensorRT >= 10.0 and < 11.0"
    assert why_missing("BuilderFlag.FP16", V114) == (
        "needs TensorRT < 11.0: it was removed in 11.0"
    )
    assert why_missing("BuilderFlag.STRICT_NANS", V86) == "needs TensorRT >= 10.6"
    assert why_missing("BuilderFlag.TF32", V86) == ""


def test_names_of_8_6_1_are_those_of_8_6_0() -> None:
    assert available("HardwareCompatibilityLevel.AMPERE_PLUS", V86)


def test_unknown_names_are_left_to_versions_nobody_looked_at() -> None:
    assert why_missing("BuilderFlag.NEW", V114) == "is in no TensorRT up to 11.4"
    assert available("BuilderFlag.NEW", parse_version("11.9.0"))


@pytest.mark.parametrize("version", ALL, ids=str)
def test_fp32_means_tf32_off_everywhere(version: Version) -> None:
    found = lowering("fp32", version)
    assert (found.onnx, found.tf32, found.flags) == ("fp32", False, ())
    assert lowering("tf32", version).tf32


@pytest.mark.parametrize(
    ("precision", "version", "onnx", "mode", "flags"),
    [
        ("fp16", V86, "fp32", "weak", ("FP16",)),
        ("fp16", V107, "fp16", "strong", ()),
        ("fp16", V114, "fp16", "strong", ()),
        ("bf16", V100, "fp32", "weak", ("BF16",)),
        ("bf16", V107, "bf16", "strong", ()),
        ("int8", V86, "int8 qdq", "weak", ("INT8",)),
        ("int8", V107, "int8 qdq", "strong", ()),
        ("int8", V114, "int8 qdq", "strong", ()),
        ("fp8", V107, "fp8 qdq", "strong", ()),
    ],
)
def test_one_word_has_several_lowerings(
    precision: str, version: Version, onnx: str, mode: str, flags: tuple[str, ...]
) -> None:
    found = lowering(precision, version)
    assert (found.onnx, found.mode, found.flags) == (onnx, mode, flags)


@pytest.mark.parametrize("precision", ["fp32", "tf32", "fp16", "bf16", "int8", "fp8"])
@pytest.mark.parametrize("version", [V107, V1016, V114], ids=str)
def test_typed_networks_get_no_precision_flags(precision: str, version: Version) -> None:
    # flags on a strongly typed network are an error of 10.x, and 11 has none
    found = lowering(precision, version)
    assert (found.mode, found.flags, found.calibrator) == ("strong", (), None)


@pytest.mark.parametrize("version", [V86, V107])
def test_calibrators_go_with_weak_networks(version: Version) -> None:
    found = lowering("int8", version, "entropy2")
    assert (found.onnx, found.mode, found.flags) == ("fp32", "weak", ("INT8",))
    assert found.calibrator == "entropy2"


def test_kept_operators_of_8_6_are_held_by_layer_precisions() -> None:
    found = lowering("fp16", V86, kept=True)
    assert found.flags == ("FP16", "OBEY_PRECISION_CONSTRAINTS")
    assert not found.tf32
    assert found.request(["/a/Conv"], ["Softmax"]) == {
        "mode": "weak",
        "flags": ["FP16", "OBEY_PRECISION_CONSTRAINTS"],
        "tf32": False,
        "keep_layers": ["/a/Conv"],
        "keep_op_types": ["Softmax"],
    }


def test_kept_operators_of_typed_networks_are_the_graphs() -> None:
    request = lowering("fp16", V107, kept=True).request(["/a/Conv"])
    assert request["keep_layers"] == []
    assert not request["tf32"]


def test_bf16_on_8_6_is_refused_with_what_to_do() -> None:
    with pytest.raises(PlanError) as raised:
        lowering("bf16", V86, toolchain="toolchain trt86")
    assert raised.value.message == (
        "precision=bf16 needs TensorRT >= 10.0; toolchain trt86 has 8.6.0"
    )
    assert "precision=fp16" in raised.value.hint


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("fp8", V86), "refused the FP8 flag"),
        (("int8", V114, "entropy2"), "removed in 11.0; the toolchain has 11.4.0.106"),
        (("fp16", V86, "minmax"), "calibrators are for int8"),
        (("fp12", V86), "no precision 'fp12'"),
    ],
)
def test_what_cannot_be_honoured_is_refused(args: tuple[object, ...], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        lowering(*args)  # type: ignore[arg-type]


def test_tf32_cannot_spare_an_operator() -> None:
    with pytest.raises(PlanError, match="one switch for the whole engine"):
        lowering("tf32", V86, kept=True)


@pytest.mark.parametrize(
    ("precision", "device"), [("tf32", (7, 5)), ("bf16", (7, 5)), ("fp8", (8, 6)), ("int8", (6, 0))]
)
def test_what_the_device_cannot_compute_is_refused(precision: str, device: tuple[int, int]) -> None:
    with pytest.raises(PlanError, match=rf"toolchain has {device[0]}\.{device[1]}\n"):
        lowering(precision, V107, compute_capability=device)
    assert lowering(precision, V107, compute_capability=(9, 0)).precision == precision


def test_opsets() -> None:
    assert [greatest_opset(v) for v in ALL] == [17, 20, None, None, 25]
    assert lowering("bf16", V107).least_opset == 22
    assert lowering("bf16", V100).least_opset is None
    assert lowering("fp16", V86).least_opset is None
