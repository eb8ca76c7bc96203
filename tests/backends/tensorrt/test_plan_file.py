"""Plans on disk: header, manifest, and whether they load. The headers are made by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from orchestrator.backends.tensorrt.plan_file import (
    check,
    manifest_path,
    read_header,
    read_manifest,
    verify,
    write_manifest,
)
from orchestrator.errors import StageError

H200 = {
    "name": "NVIDIA H200", "compute_capability": "9.0", "sms": 132, "memory_bytes": 150_000_000_000,
}  # fmt: skip
HERE: dict[str, Any] = {"tensorrt": "8.6.0", "platform": "linux-x86_64", "device": H200}


def plan(folder: Path, version: tuple[int, ...] = (8, 6, 0, 12), *, size: int = 4096) -> Path:
    path = folder / "model.plan"
    head = b"ftrt" + bytes(20) + bytes(version)  # as 8.6.0 wrote on an H200: 08 06 00 0c
    path.write_bytes(head + b"\x5a" * (size - len(head)))
    return path


def built(folder: Path, version: tuple[int, ...] = (8, 6, 0, 12), **more: Any) -> Path:
    path = plan(folder, version)
    write_manifest(path, HERE, **more)
    return path


def loads(path: Path, **here: Any) -> bool | None:
    return check(path, {**HERE, **here}).loads


def test_header_and_manifest_of_a_good_plan(tmp_path: Path) -> None:
    path = built(tmp_path, more={"precision": "fp16"})
    assert read_header(path).version == (8, 6, 0, 12)
    found = check(path, HERE)
    assert (found.loads, found.reasons, found.warnings) == (True, (), ())
    assert found.version == "8.6.0.12"
    assert verify(path)["precision"] == "fp16"
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a TensorRT plan"),
        (b"\x08\x00", "not a TensorRT plan"),
        (b"PK\x03\x04" + bytes(40), "not a TensorRT plan"),
        (b"ftrt" + bytes(10), "ends after 14 bytes"),
        (b"ftrt\x01" + bytes(40), "serialization version"),
    ],
)
def test_what_is_no_plan_is_said(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "model.plan"
    path.write_bytes(data)
    with pytest.raises(StageError, match=message):
        check(path, HERE)


def test_a_missing_plan_is_said(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="cannot be read: No such file"):
        check(tmp_path / "none.plan", HERE)


@pytest.mark.parametrize("at", [5000, 100, 4095])
def test_a_flipped_bit_is_refused(tmp_path: Path, at: int) -> None:
    path = built(tmp_path)
    data = bytearray(path.read_bytes())
    data[at % len(data)] ^= 1
    path.write_bytes(data)
    assert loads(path) is False
    with pytest.raises(StageError, match="SHA-256 differs"):
        verify(path)


def test_a_truncated_plan_is_refused(tmp_path: Path) -> None:
    path = built(tmp_path)
    path.write_bytes(path.read_bytes()[:1000])
    assert check(path, HERE).reasons == ("the plan has 1000 bytes, and its manifest says 4096",)
    with pytest.raises(StageError, match="1000 bytes"):
        verify(path)


def test_without_a_manifest_only_the_version_is_known(tmp_path: Path) -> None:
    path = plan(tmp_path)
    assert loads(path) is None
    assert loads(path, tensorrt="10.7.0") is False
    with pytest.raises(StageError, match="no manifest"):
        verify(path)


def test_without_a_tensorrt_only_the_file_is_known(tmp_path: Path) -> None:
    found = check(built(tmp_path), None)
    assert found.loads is None
    assert found.reasons == ("no TensorRT was found here to hold the plan against",)


@pytest.mark.parametrize(
    ("here", "reason"),
    [
        ({"tensorrt": "8.6.1"}, "built by TensorRT 8.6.0.12, here is 8.6.1, and it is not version"),
        ({"tensorrt": "10.7.0"}, "here is 10.7.0"),
        ({"platform": "linux-aarch64"}, "it is for linux-x86_64, here is linux-aarch64"),
        ({"device": {**H200, "compute_capability": "8.0"}}, "compute capability 9.0, here is 8.0"),
    ],
)
def test_another_version_platform_or_device(
    tmp_path: Path, here: Mapping[str, Any], reason: str
) -> None:
    found = check(built(tmp_path), {**HERE, **here})
    assert found.loads is False
    assert reason in found.reasons[0]


def test_an_unknown_device_is_not_a_yes(tmp_path: Path) -> None:
    assert loads(built(tmp_path), device={}) is None
    assert loads(built(tmp_path), tensorrt="") is None


def test_another_device_of_the_same_capability_is_a_warning(tmp_path: Path) -> None:
    found = check(built(tmp_path), {**HERE, "device": {**H200, "name": "NVIDIA H100", "sms": 114}})
    assert found.loads is True
    assert "name NVIDIA H200, here NVIDIA H100" in found.warnings[0]


@pytest.mark.parametrize(
    ("level", "capability", "expected"),
    [
        ("ampere_plus", "8.6", True),
        ("ampere_plus", "12.0", True),
        ("ampere_plus", "7.5", False),
        ("same_compute_capability", "9.0", True),
        ("same_compute_capability", "8.9", False),
    ],
)
def test_hardware_compatibility(
    tmp_path: Path, level: str, capability: str, expected: bool
) -> None:
    path = built(tmp_path, options={"hardware_compatibility": level})
    device = {"name": "another", "compute_capability": capability}
    found = check(path, {**HERE, "device": device})
    assert found.loads is expected
    assert found.warnings == ()


@pytest.mark.parametrize(
    ("version", "here", "expected"),
    [
        ((8, 6, 0, 12), "8.6.1", True),
        ((8, 6, 0, 12), "10.7.0", True),
        ((8, 6, 0, 12), "11.0.0.114", False),
        ((10, 7, 0, 23), "11.4.0.106", True),
        ((10, 7, 0, 23), "10.9.0.34", True),
        ((10, 9, 0, 34), "10.7.0", None),
        ((10, 7, 0, 23), "8.6.1", False),
    ],
)
def test_version_compatible_plans(
    tmp_path: Path, version: tuple[int, ...], here: str, expected: bool | None
) -> None:
    path = built(tmp_path, version, options={"version_compatible": True})
    assert loads(path, tensorrt=here) is expected
    strict = built(tmp_path, version)
    assert loads(strict, tensorrt=here) is False


def test_a_plan_without_its_lean_runtime_is_not_a_yes(tmp_path: Path) -> None:
    path = built(tmp_path, options={"version_compatible": True, "exclude_lean_runtime": True})
    assert loads(path) is True
    found = check(path, {**HERE, "tensorrt": "8.6.1"})
    assert found.loads is None
    assert "needs the lean runtime of TensorRT 8.6.0.12" in found.reasons[0]


def test_plugins_are_matched_by_digest(tmp_path: Path) -> None:
    path = built(tmp_path, plugins={"libx.so": "ab" * 32})
    assert check(path, HERE).reasons == ("it needs the plugin library libx.so",)
    assert loads(path, plugins={"renamed.so": "ab" * 32}) is True
    found = check(path, {**HERE, "plugins": {"libx.so": "cd" * 32}})
    assert found.reasons == ("the plugin library libx.so is not the one the plan was built with",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read"),
        ("[]", "not one of ours"),
        (json.dumps({"schema": 9, "plan": {}}), "schema 9"),
    ],
)
def test_manifests_that_cannot_be_trusted(tmp_path: Path, text: str, message: str) -> None:
    path = plan(tmp_path)
    manifest_path(path).write_text(text)
    with pytest.raises(StageError, match=message):
        check(path, HERE)


def test_a_manifest_is_replaced_whole(tmp_path: Path) -> None:
    path = built(tmp_path, more={"precision": "fp16"})
    write_manifest(path, HERE, more={"precision": "int8"})
    found = read_manifest(path)
    assert found is not None
    assert found["precision"] == "int8"
