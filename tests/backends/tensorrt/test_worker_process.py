"""worker.py as a process: what it leaves and says where there is no TensorRT."""

from __future__ import annotations

import ast
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from orchestrator.backends.tensorrt import worker

WORKER = Path(worker.__file__)
# -S: without site-packages, so that neither TensorRT nor NumPy is found wherever this runs.
BARE = [sys.executable, "-I", "-S", str(WORKER)]


def serve(
    directory: Path, request: Any, command: list[str] | None = None
) -> tuple[dict[str, Any], subprocess.CompletedProcess[str]]:
    text = request if isinstance(request, str) else json.dumps(request)
    (directory / "request.json").write_text(text)
    done = subprocess.run(
        [*(command or BARE), str(directory)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads((directory / "result.json").read_text())
    return result, done


def request_archive(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def take_apart(stdout: bytes) -> tuple[list[dict[str, Any]], bytes]:
    """Return the events, and the bytes that the last of them announces."""
    stream = io.BytesIO(stdout)
    events: list[dict[str, Any]] = []
    while not events or events[-1]["event"] != "files":
        events.append(json.loads(stream.readline()))
    rest = stream.read()
    assert len(rest) == events[-1]["bytes"]
    return events, rest


def test_a_probe_without_tensorrt_is_a_result(tmp_path: Path) -> None:
    result, done = serve(tmp_path, {"op": "probe"})
    assert result["ok"] is False
    assert result["kind"] == "missing"
    assert f"TensorRT is not installed in {sys.executable}" in result["message"]
    assert "toolchain.command" in result["hint"]
    assert result["seen"]["platform"].startswith(sys.platform)
    assert done.stdout == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["request.json", "result.json"]


def test_an_operation_without_numpy_says_so(tmp_path: Path) -> None:
    result, _ = serve(tmp_path, {"op": "refit", "plan": "p", "onnx": "o", "output": "q"})
    assert result["kind"] == "missing"
    assert result["message"].startswith("NumPy cannot be imported")


@pytest.mark.parametrize(
    ("request_text", "message"),
    [
        ("{", "the request is no JSON object"),
        ("[]", "the request is no JSON object"),
        ('{"op": "bild"}', "no operation 'bild'"),
        ('{"op": "build", "onnx": "m.onnx"}', "'plan' must be a str"),
        ('{"op": "run", "plan": "p", "batches": {}}', "'batches' must be a list"),
        ('{"op": "probe", "onnx": "m"}', "unknown fields onnx"),
        ('{"op": "probe", "log_level": "loud"}', "log_level must be one of internal_error"),
    ],
)
def test_a_broken_request_is_a_bug_of_ours(tmp_path: Path, request_text: str, message: str) -> None:
    result, _ = serve(tmp_path, request_text)
    assert result["kind"] == "bug"
    assert message in result["message"]


def test_a_missing_request_is_a_result_too(tmp_path: Path) -> None:
    done = subprocess.run([*BARE, str(tmp_path)], capture_output=True, check=False)
    assert done.returncode == 0
    assert json.loads((tmp_path / "result.json").read_text())["kind"] == "bug"


@pytest.mark.parametrize("words", [[], ["a", "b"], ["--op", "build"], ["--op"]])
def test_a_wrong_command_line_ends_with_2(words: list[str]) -> None:
    done = subprocess.run([*BARE, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "usage:" in done.stderr
    assert done.stdout == ""


def test_a_missing_directory_ends_with_2(tmp_path: Path) -> None:
    done = subprocess.run(
        [*BARE, str(tmp_path / "none")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "there is no directory" in done.stderr


def test_over_pipes_the_result_comes_back_as_a_tar_stream() -> None:
    files = {"request.json": b'{"op": "probe"}', "model/model.onnx": b"onnx", "a/b/c": b""}
    done = subprocess.run(
        [*BARE, "-"], input=request_archive(files), capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    _, archive = take_apart(done.stdout)
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        assert tar.getnames() == ["result.json"], "files that came with the request do not go back"
        file = tar.extractfile("result.json")
        assert file is not None
        assert json.load(file)["kind"] == "missing"


def test_over_pipes_a_cut_off_request_is_a_result() -> None:
    archive = request_archive({"request.json": b'{"op": "probe"}' + b" " * 5000})
    done = subprocess.run([*BARE, "-"], input=archive[:2000], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    _, archive = take_apart(done.stdout)
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        file = tar.extractfile("result.json")
        assert file is not None
        result = json.load(file)
    assert result["kind"] == "bug"
    assert "did not arrive whole" in result["message"]


def test_it_runs_as_text_that_comes_before_the_request() -> None:
    """As ssh and docker run it: the source through stdin, then the request's stream."""
    source = WORKER.read_bytes()
    program = (
        f"import sys; exec(compile(sys.stdin.buffer.read({len(source)}), 'worker.py', 'exec'))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program, "-"],
        input=source + request_archive({"request.json": b'{"op": "probe"}'}),
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    events, _ = take_apart(done.stdout)
    assert events[-1]["event"] == "files"


def test_over_pipes_it_ends_when_nobody_reads() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [*BARE, "-"],
        input=request_archive({"request.json": b'{"op": "probe"}'}),
        stdout=writer,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(writer)
    assert done.returncode == 3


def test_what_libraries_print_does_not_reach_stdout() -> None:
    program = (
        "import ctypes, os, sys; sys.path.insert(0, sys.argv[1]); import worker\n"
        "print('before'); channel = worker.Channel(worker.claim_stdout(), lambda: None)\n"
        "print('python'); os.write(1, b'descriptor\\n'); ctypes.CDLL(None).puts(b'c')\n"
        "ctypes.CDLL(None).fflush(None); sys.stdout.flush(); channel.progress(0.5, 'half')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(WORKER.parent)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == 'before\n{"event": "progress", "done": 0.5, "text": "half"}\n'
    assert set(done.stderr.split()) == {"python", "descriptor", "c"}


def test_a_person_can_probe() -> None:
    done = subprocess.run([*BARE, "--op", "probe"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    event = json.loads(done.stdout)
    assert event["event"] == "result"
    assert event["kind"] == "missing"


NEWER = {"removeprefix", "removesuffix", "is_relative_to", "cache", "pairwise", "batched", "lcm"}


def test_the_source_keeps_to_python_3_8() -> None:
    tree = ast.parse(WORKER.read_text(encoding="utf-8"), feature_version=(3, 8))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in NEWER:
            assert ast.unparse(node.value) != "functools", f"line {node.lineno}"
            assert node.attr == "cache", f"line {node.lineno}: {node.attr} is newer than 3.8"
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "zip":
            assert not node.keywords, f"line {node.lineno}: strict= is newer than 3.8"
        if isinstance(node, ast.With):
            assert "(\n" not in ast.unparse(node.items[0])
    imported = {
        alias.name.partition(".")[0]
        for node in tree.body
        if isinstance(node, ast.Import)
        for alias in node.names
    } | {str(node.module) for node in tree.body if isinstance(node, ast.ImportFrom)}
    assert imported <= set(sys.stdlib_module_names) | {"__future__"}


def test_python_3_8_runs_it(tmp_path: Path) -> None:
    homes = sorted((Path.home() / ".pyenv" / "versions").glob("3.8.*/bin/python"))
    # First an installed one: what the path has may be a shim for none.
    python = str(homes[-1]) if homes else shutil.which("python3.8")
    if python is None:
        pytest.skip("no Python 3.8 on this machine")
    result, _ = serve(tmp_path, {"op": "probe"}, [python, "-I", "-S", str(WORKER)])
    assert result["kind"] == "missing"
    assert result["seen"]["python"].startswith("3.8.")
