"""A disk that is full where the toolchain writes: told apart, with advice, and never remembered.

A limit on the size of files, which is real, stands for the full disk: the system refuses alike.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

import pytest

from orchestrator.backends.base import Built, Job, Json
from orchestrator.backends.tensorrt import worker
from orchestrator.backends.tensorrt.building import build, refit
from orchestrator.backends.tensorrt.failures import ToolchainError
from orchestrator.backends.tensorrt.options import request
from orchestrator.backends.tensorrt.probe import probe
from orchestrator.backends.tensorrt.toolchain import Toolchain, Transport, call
from orchestrator.backends.tensorrt.versions import lowering, parse_version
from orchestrator.config.tensorrt import TensorRTOptions
from tests.backends import nets
from tests.backends.tensorrt.standin import command
from tests.backends.tensorrt.standin.project import events, make_project, write
from tests.command import Workplace

VERSION: Final = "8.6.1"
LIMIT_KIB: Final = 40
SIZE: Final = 128  # of a weight: 64 KiB of a plan


def limited(words: list[str], kib: int = LIMIT_KIB) -> list[str]:
    """Return a command under which no file grows above *kib* KiB."""
    program = f'ulimit -f {kib}; exec "$@"'
    return ["bash", "-c", program, "bash", *words]


def job(root: Path, *, full: bool, log: Path | None = None) -> Job:
    words = command(version=VERSION, **({"count": str(log)} if log else {}))
    toolchain = Toolchain(name="trt86", command=tuple(limited(words) if full else words))
    scratch = root / f"scratch{len(list(root.glob('scratch*')))}"
    scratch.mkdir()
    reach = {**toolchain.as_json(), "timing_cache": False}
    return Job(scratch=scratch, log=print, reach=reach)


@pytest.fixture(scope="module")
def target() -> Json:
    seen = probe(Toolchain(command=tuple(command(version=VERSION))), None).seen
    low, best, high = ([n, SIZE] for n in (1, 4, 8))
    return {
        "expect": seen,
        "options": request(TensorRTOptions(refit="refit")),
        "word": "fp32",
        "precision": lowering("fp32", parse_version(VERSION), None).request(),
        "profiles": [{"x": {"min": low, "opt": best, "max": high}}],
        "inputs": ["x"],
        "outputs": ["y"],
        "calibrator": None,
        "host_code": False,
    }


def test_a_plan_that_finds_no_space_is_no_refusal(tmp_path: Path, target: Json) -> None:
    net = nets.save(nets.matmul_net(SIZE), tmp_path / "net")
    into = tmp_path / "engine"
    into.mkdir()
    with pytest.raises(ToolchainError, match="no space left for the toolchain's files") as caught:
        build(net, into, target, job(tmp_path, full=True), Built())
    assert caught.value.kind == "disk"
    assert "cache.dir" in caught.value.hint
    assert list(into.iterdir()) == []


def test_a_refit_that_finds_no_space_builds_nothing(tmp_path: Path, target: Json) -> None:
    net = nets.save(nets.matmul_net(SIZE), tmp_path / "net")
    base, into, log = tmp_path / "base", tmp_path / "engine", tmp_path / "events"
    for folder in (base, into):
        folder.mkdir()
    build(net, base, target, job(tmp_path, full=False), Built())
    with pytest.raises(ToolchainError) as caught:
        refit(net, base, into, target, job(tmp_path, full=True, log=log), Built())
    assert caught.value.kind == "disk"
    assert [one["event"] for one in events(log)] == ["start", "refit"]


def test_files_that_travel_to_a_full_disk(tmp_path: Path) -> None:
    large = tmp_path / "model.onnx"
    large.write_bytes(bytes(2 * LIMIT_KIB << 10))
    directory = tmp_path / "request"
    directory.mkdir()
    pipe: Transport = "pipe"
    toolchain = Toolchain(command=tuple(limited([sys.executable])), transport=pipe)
    with pytest.raises(ToolchainError, match="no space left") as caught:
        call(toolchain, {"op": "probe"}, directory, files={"model.onnx": large})
    assert caught.value.kind == "disk"
    assert "TMPDIR" in caught.value.hint


@pytest.mark.parametrize("number", worker.NO_SPACE)
def test_want_of_space_has_several_names(number: int) -> None:
    assert worker.file_failure(OSError(number, os.strerror(number))).kind == "disk"
    assert worker.file_failure(PermissionError(13, "no")).kind == "refused"


@pytest.mark.slow
def test_a_run_without_space_says_what_to_do_and_goes_on_later(tmp_path: Path) -> None:
    place = Workplace.at(tmp_path)
    make_project(place.directory)
    words = ("target=tensorrt", "toolchain=trt86", "model=net", "benchmark=none")
    plain = command(version=VERSION)
    write(place.directory, "toolchain/trt86", {"name": "trt86", "command": limited(plain, 8)})
    failed = place.build(*words)
    assert failed.code != 0
    assert "no space left while 'build' ran: toolchain trt86: there is no space" in failed.text
    assert "set TMPDIR in toolchain.command" in failed.text
    write(place.directory, "toolchain/trt86", {"name": "trt86", "command": plain})
    again = place.build(*words)
    assert again.code == 0, again.text
