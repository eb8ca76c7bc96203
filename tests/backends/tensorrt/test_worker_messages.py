"""What worker.py says: log, kinds of failures, parser errors, identities, plan headers.

Texts of TensorRT are as 8.6 wrote them (8.6.0 on an H200, or the strings of its library).
"""

from __future__ import annotations

import enum
import io
import json
import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from orchestrator.backends.tensorrt import worker


def make_log(level: str = "info", keep: int = 60) -> tuple[worker.Log, io.BytesIO]:
    stream = io.BytesIO()
    return worker.Log(worker.Channel(stream, lambda: None), level, keep), stream


def test_the_log_forwards_up_to_its_level_and_keeps_errors() -> None:
    log, stream = make_log(keep=3)
    log.add("error", "first")
    mark = log.mark()
    for severity, text in [("verbose", "v"), ("info", "i"), ("warning", "w"), ("error", "e")]:
        log.add(severity, text)
    events = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [event["text"] for event in events] == ["first", "i", "w", "e"]
    assert events[-1] == {"event": "log", "severity": "error", "text": "e"}
    assert log.errors() == ["first", "e"]
    assert log.errors(mark) == ["e"]
    assert log.warnings() == ["w"]
    assert log.tail() == ["[info] i", "[warning] w", "[error] e"]


def test_a_quiet_log_still_keeps_what_a_failure_needs() -> None:
    log, stream = make_log("error")
    log.add("info", "i")
    log.add("internal_error", "x")
    assert len(stream.getvalue().splitlines()) == 1
    assert log.tail() == ["[info] i", "[internal_error] x"]


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("Error Code 1: Cuda Runtime (out of memory)", "memory"),
        ("[virtualMemoryBuffer.cpp::resizePhysical] Error Code 2: OutOfMemory", "memory"),
        (
            "Requested amount of GPU memory (1099511627776 bytes) could not be allocated.",
            "memory",
        ),
        ("CUDA initialization failure with error: 35", "device"),
        ("Error Code 1: Cuda Runtime (an illegal memory access was encountered)", "device"),
        (
            "The engine plan file is generated on an incompatible device, expecting compute 8.6 "
            "got compute 9.0, please rebuild.",
            "mismatch",
        ),
        (
            "The engine plan file is not compatible with this version of TensorRT, expecting "
            "library version 8.6.0.12 got 8.5.1.7, please rebuild.",
            "mismatch",
        ),
        ("Error Code 10: Could not find any implementation for node x.", "builder"),
    ],
)
def test_kinds_are_read_from_tensorrts_words(line: str, kind: str) -> None:
    assert worker.classify(["some context", line], "builder") == kind


def test_failures_of_the_gpu_say_what_to_do() -> None:
    status = enum.IntEnum("status", {"cudaErrorMemoryAllocation": 2, "cudaErrorLaunchFailure": 719})
    api = SimpleNamespace(
        cudaSetDevice=lambda device: (status(2),),
        cudaDeviceSynchronize=lambda: (status(719),),
    )
    cuda = worker.Cuda(api)
    with pytest.raises(worker.Failure, match=r"cudaSetDevice\(0\) failed: .*Alloc") as caught:
        cuda.call("cudaSetDevice", 0)
    assert (caught.value.kind, caught.value.hint) == ("memory", worker.HINTS["memory"])
    with pytest.raises(worker.Failure) as caught:
        cuda.call("cudaDeviceSynchronize")
    assert (caught.value.kind, caught.value.hint) == ("device", worker.HINTS["device"])
    assert worker.Failure("device", "text", "a hint of its own").hint == "a hint of its own"


def test_an_identity_tells_of_the_tf32_override(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    assert worker.interpreter_identity()["nvidia_tf32_override"] == ""
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    seen = worker.interpreter_identity()
    assert worker.differences({"nvidia_tf32_override": ""}, seen) == [
        "nvidia_tf32_override: expected nothing, found 0"
    ]


def test_long_errors_are_cut_from_the_end() -> None:
    assert worker.quoted([]) == "TensorRT gave no reason"
    assert worker.quoted(["a", "b"]) == "a\nb"
    assert worker.quoted(list("abcdef")) == "a\nb\nc\nd\n(and 2 more lines)"


def test_parser_errors_name_node_and_operator() -> None:
    error = {
        "code": "UNSUPPORTED_NODE",
        "description": "Plugin not found, are the plugin name, version, and namespace correct?",
        "node": 0,
        "node_name": "/norm/Fancy",
        "operator": "Fancy",
    }
    assert worker.parser_message([error]) == (
        "TensorRT's ONNX parser refuses the model:\n"
        "node '/norm/Fancy' (Fancy): UNSUPPORTED_NODE: Plugin not found, are the plugin name, "
        "version, and namespace correct?"
    )
    bare = {**error, "node": 3, "node_name": "", "operator": ""}
    assert "\nnode 3: UNSUPPORTED_NODE" in worker.parser_message([bare])
    whole = {**bare, "node": -1, "code": "MODEL_DESERIALIZE_FAILED"}
    assert "\nMODEL_DESERIALIZE_FAILED: Plugin" in worker.parser_message([whole])


IDENTITY = {
    "tensorrt": "8.6.0",
    "cuda_driver": "13.0",
    "python": "3.10.13",
    "device": {"name": "NVIDIA H200", "compute_capability": "9.0", "sms": 132, "uuid": "GPU-1"},
}


def test_only_what_decides_the_plan_is_compared() -> None:
    device = {**IDENTITY["device"], "uuid": "GPU-2"}  # type: ignore[dict-item]
    same = {**IDENTITY, "cuda_driver": "13.1", "python": "3.10.14", "device": device, "new": 1}
    assert worker.differences(IDENTITY, same) == []
    other = {**IDENTITY, "tensorrt": "8.6.1", "device": {**device, "sms": 114}}
    assert worker.differences(IDENTITY, other) == [
        "tensorrt: expected 8.6.0, found 8.6.1",
        "device.sms: expected 132, found 114",
    ]
    assert worker.differences(IDENTITY, {"tensorrt": "8.6.0"}) == [
        f"device: expected {IDENTITY['device']}, found None"
    ]


@pytest.mark.parametrize(
    ("version", "installed", "name"),
    [
        ("8.6.0", {"tensorrt": "8.6.0"}, "tensorrt"),
        ("10.16.1.11", {"tensorrt": "10.16.1.11", "tensorrt-cu12": "10.16.1.11"}, "tensorrt-cu12"),
        (
            "10.0.1",
            {"tensorrt-cu13-bindings": "11.0", "tensorrt-cu12-bindings": "10.0.1"},
            "tensorrt-cu12",
        ),
        ("10.7.0", {"tensorrt": "10.7.0.post1"}, "tensorrt"),
        ("8.6.1", {}, ""),
        ("8.6.1", {"tensorrt": "8.5.3"}, ""),
    ],
)
def test_bindings_are_the_distribution_of_that_version(
    version: str, installed: dict[str, str], name: str
) -> None:
    assert worker.bindings_of(version, installed) == name


def test_plan_headers_tell_the_version() -> None:
    head = b"ftrt" + bytes(20) + bytes([8, 6, 0, 12])
    assert worker.plan_version(head) == "8.6.0.12"
    assert worker.plan_version(head[:27]) is None
    assert worker.plan_version(b"\x08\x08" + head[2:]) is None


def test_numbers_are_written_as_nvidia_writes_them() -> None:
    assert worker.cuda_version(12040) == "12.4"
    assert worker.cuda_version(11080) == "11.8"
    uuid = worker.device_uuid(bytes(range(16)))
    assert uuid == "GPU-00010203-0405-0607-0809-0a0b0c0d0e0f"


@pytest.mark.parametrize(
    ("raise_it", "kind", "text"),
    [
        (lambda: 1 / 0, "bug", "ZeroDivisionError"),
        (lambda: [].__getitem__(1), "bug", "IndexError"),
        (lambda: open("/none/such"), "refused", "No such file"),  # noqa: PTH123, SIM115
    ],
)
def test_whatever_fails_is_a_result(
    raise_it: Callable[[], object], kind: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "load_tensorrt", raise_it)
    result = worker.perform(".", {"op": "probe"}, worker.Channel(io.BytesIO(), lambda: None))
    assert result["ok"] is False
    assert result["kind"] == kind
    assert text in result["message"]
    assert ("Traceback" in result.get("traceback", "")) == (kind == "bug")


def test_a_broken_package_is_told_apart_from_none() -> None:
    """In a child, whose import system may be bent: the package is there, its libraries are not."""
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); import worker\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'tensorrt':\n"
        "            raise ImportError('libnvinfer.so.10: cannot open shared object file')\n"
        "sys.meta_path.insert(0, Finder())\n"
        "try:\n    worker.load_tensorrt()\n"
        "except worker.Failure as exc:\n    print(exc.kind, exc.message, exc.hint)\n"
    )
    folder = worker.__file__.rpartition("/")[0]
    done = subprocess.run(
        [sys.executable, "-c", program, folder], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("missing TensorRT in")
    assert "cannot load its libraries: libnvinfer.so.10" in done.stdout
    assert "LD_LIBRARY_PATH" in done.stdout
