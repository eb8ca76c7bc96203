"""Plans on disk: header, manifest, and whether they load. The headers are made by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from orchestrator.backends.tensorrt.compatibility import Reason
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
        (b"", "the file is empty"),
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
        read_header(path)
    found = check(path, HERE)
    assert (found.loads, found.version) == (False, "")
    assert message in found.reasons[0]


def test_a_plan_that_lost_its_header_is_held_against_its_manifest(tmp_path: Path) -> None:
    path = built(tmp_path)
    path.write_bytes(b"g" + path.read_bytes()[1:])
    found = check(path, HERE)
    assert (found.loads, found.intact) == (False, False)
    assert "not a TensorRT plan" in found.reasons[0]
    assert "SHA-256 differs" in found.reasons[1]
    assert len(found.hints) == len(set(found.hints))


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
    (warning,) = found.warnings
    assert "name NVIDIA H200, here NVIDIA H100; sms 132, here 114" in warning


def test_a_plan_for_windows_does_not_load_here(tmp_path: Path) -> None:
    path = built(tmp_path, options={"runtime_platform": "windows_amd64"})
    assert check(path, HERE).reasons == ("it is for win32-AMD64, here is linux-x86_64",)
    assert loads(path, platform="win32-AMD64") is True


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
        ("{", "is damaged"),
        ("", "is damaged"),
        ("[" * 100_000, "is damaged"),
        ("[" * 100 + "]" * 100, "nested too deeply"),
        ('{"schema": NaN}', "NaN is no JSON"),
        ("[]", "not one of ours"),
        ('{"schema": "1"}', "not one of ours"),
        ('{"schema": 0}', "not one of ours"),
        (json.dumps({"schema": 9, "plan": {}}), "schema 9"),
        (json.dumps({"schema": 1, "plan": {}}), "'plan' is not"),
        (json.dumps({"schema": 1, "plan": {"bytes": 1, "sha256": ""}}), "'built' is not"),
    ],
)
def test_manifests_that_cannot_be_trusted(tmp_path: Path, text: str, message: str) -> None:
    path = plan(tmp_path)
    manifest_path(path).write_text(text)
    with pytest.raises(StageError, match=message):
        read_manifest(path)
    with pytest.raises(StageError, match=message):
        verify(path)
    found = check(path, HERE)
    assert (found.loads, found.manifest, found.intact) == (None, None, None)
    assert message in found.reasons[0]
    assert check(path, {**HERE, "tensorrt": "10.7.0"}).loads is False


@pytest.mark.parametrize(
    ("section", "value"),
    [
        ("plan", {"bytes": True, "sha256": "0"}),
        ("plan", {"bytes": 1, "sha256": None}),
        ("built", []),
        ("built", {"device": "NVIDIA H200"}),
        ("compatibility", "none"),
        ("plugins", ["libx.so"]),
        ("plugins", {"libx.so": 1}),
    ],
)
def test_a_damaged_section_is_named(tmp_path: Path, section: str, value: Any) -> None:
    path = built(tmp_path)
    manifest = json.loads(manifest_path(path).read_text())
    manifest_path(path).write_text(json.dumps({**manifest, section: value}))
    found = check(path, HERE)
    assert found.loads is None
    assert f"'{section}' is not what it should be" in found.reasons[0]


def test_a_manifest_that_cannot_be_read(tmp_path: Path) -> None:
    path = plan(tmp_path)
    manifest_path(path).mkdir()
    assert "cannot be read: Is a directory" in check(path, HERE).reasons[0]


def test_why_a_toolchain_did_not_answer_is_a_reason(tmp_path: Path) -> None:
    path = built(tmp_path)
    problem = Reason("no driver", "install one")
    half = {key: value for key, value in HERE.items() if key != "tensorrt"}
    found = check(path, half, problem=problem)
    assert (found.loads, found.findings) == (None, (problem,))
    found = check(path, {**HERE, "device": {"compute_capability": "8.0"}}, problem=problem)
    assert found.loads is False
    assert problem not in found.findings


def test_a_manifest_is_replaced_whole(tmp_path: Path) -> None:
    path = built(tmp_path, more={"precision": "fp16"})
    write_manifest(path, HERE, more={"precision": "int8"})
    found = read_manifest(path)
    assert found is not None
    assert found["precision"] == "int8"
