from __future__ import annotations

import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import onnx
import pytest

from orchestrator.backends import base
from orchestrator.backends.base import Job, backend, tools_of
from orchestrator.backends.onnxruntime import BACKEND, installed
from orchestrator.backends.onnxruntime.flops import flops
from orchestrator.errors import PlanError
from tests.backends import nets


def _pretend(monkeypatch: pytest.MonkeyPatch, **versions: str) -> None:
    def version(name: str) -> str:
        found = versions.get(name.replace("-", "_"))
        if found is None:
            raise metadata.PackageNotFoundError(name)
        return found

    monkeypatch.setattr(metadata, "version", version)


def test_the_installed_runtime_is_found() -> None:
    found = installed.find_onnxruntime()
    assert found.version == metadata.version(found.distribution)


def test_the_gpu_distribution_counts_too(monkeypatch: pytest.MonkeyPatch) -> None:
    _pretend(monkeypatch, onnxruntime_gpu="1.31.0")
    assert installed.find_onnxruntime() == installed.Installed("onnxruntime-gpu", "1.31.0")


def test_no_runtime_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    _pretend(monkeypatch)
    with pytest.raises(PlanError, match=r"no ONNX Runtime is installed[\s\S]*orchestrate\[cpu\]"):
        installed.find_onnxruntime()
    probe = backend("onnxruntime").probe()
    assert not probe.works
    assert "pip install" in probe.advice


def test_both_runtimes_say_which_to_uninstall(monkeypatch: pytest.MonkeyPatch) -> None:
    _pretend(monkeypatch, onnxruntime="1.31.0", onnxruntime_gpu="1.30.0")
    with pytest.raises(PlanError, match=r"one folder[\s\S]*pip uninstall"):
        installed.find_onnxruntime()


def test_cpu_flags_that_matter_are_kept_and_core_counts_are_not(tmp_path: Path) -> None:
    x86 = tmp_path / "x86"
    x86.write_text(
        "processor\t: 0\nmodel name\t: A CPU\ncpu cores\t: 4\n"
        "flags\t\t: fpu avx2 avx fma avx512_vnni amx_int8 avx_vnni sse2 smep smap\n\n"
        "processor\t: 1\nmodel name\t: A CPU\n"
    )
    found = installed.cpu_target(x86)
    assert found["model"] == "A CPU"
    assert found["flags"] == ["amx_int8", "avx", "avx2", "avx512_vnni", "avx_vnni", "fma"]
    assert set(found) == {"machine", "model", "flags"}
    arm = tmp_path / "arm"
    arm.write_text(
        "processor\t: 0\nFeatures\t: fp asimd asimddp sve sme2 i8mm crc32\n"
        "CPU implementer\t: 0x41\nCPU part\t: 0xd40\n"
    )
    found = installed.cpu_target(arm)
    assert found["flags"] == ["asimd", "asimddp", "i8mm", "sme2", "sve"]
    assert found["model"] == "0x41 0xd40"
    assert installed.cpu_target(tmp_path / "absent")["flags"] == []


def test_what_the_planner_imports_is_light() -> None:
    code = (
        "import sys\n"
        "from orchestrator.backends.base import backend\n"
        "from orchestrator.stages import audit, benchmark, build, judge, run, score\n"
        "from orchestrator.numerics import precision, verdict\n"
        "target = {'backend': 'onnxruntime'}\n"
        "assert build.STAGE.tools_for({'target': target}) == ('onnxruntime',)\n"
        "backend('onnxruntime').probe(), backend('tensorrt').name\n"
        "heavy = {'numpy', 'onnx', 'onnxruntime', 'torch'} & sys.modules.keys()\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_an_unknown_backend_names_the_nearest() -> None:
    with pytest.raises(PlanError, match="did you mean 'onnxruntime'"):
        backend("onxruntime")
    assert tools_of({"target": nets.TARGET}) == ("onnxruntime",)
    assert set(base.BACKENDS) >= {"onnxruntime"}


def test_weights_behind_a_linked_folder_are_read(tmp_path: Path) -> None:
    """The store keeps `weights` as a link; ONNX Runtime itself refuses such external data."""
    tree = tmp_path / "tree"
    (tree / "weights").mkdir(parents=True)
    model = nets.matmul_net(32)
    inline = nets.save(model, tmp_path / "inline")
    onnx.save(
        model,
        tree / "model.onnx",
        save_as_external_data=True,
        location="weights/weights.bin",
        size_threshold=0,
    )
    shutil.move(tree / "weights", tmp_path / "elsewhere")
    (tree / "weights").symlink_to("../elsewhere")
    job = Job(scratch=tmp_path, log=lambda line: None)
    feeds = {"x": np.ones((2, 32), np.float32)}
    runtime = BACKEND
    with (
        runtime.open(tree, nets.TARGET, job) as linked,
        runtime.open(inline, nets.TARGET, job) as plain,
    ):
        assert np.array_equal(linked(feeds)["y"], plain(feeds)["y"])


@pytest.mark.parametrize(
    ("op", "inputs", "output", "weights", "attributes", "expected"),
    [
        ("Conv", [(2, 4, 8, 8), (6, 4, 3, 3)], (2, 6, 8, 8), {}, {}, 2 * 768 * 36),
        ("Conv", [(2, 4, 8, 8), (4, 1, 3, 3)], (2, 4, 8, 8), {}, {"group": 4}, 2 * 512 * 9),
        ("QLinearConv", [(2, 4, 8, 8), ()], (2, 6, 8, 8), {3: (6, 4, 1, 1)}, {}, 2 * 768 * 4),
        ("ConvTranspose", [(1, 4, 5, 5), (4, 2, 2, 2)], (1, 2, 10, 10), {}, {}, 2 * 100 * 8),
        ("MatMul", [(3, 5, 7)], (3, 5, 11), {}, {}, 2 * 165 * 7),
        ("Gemm", [(7, 5)], (5, 11), {}, {"transA": 1}, 2 * 55 * 7),
        ("Gemm", [(11,)], (5, 11), {0: (5, 7)}, {}, 2 * 55 * 7),
        ("QGemm", [(5, 7), (), ()], (5, 11), {}, {}, 2 * 55 * 7),
        ("Attention", [(1, 4, 8), (8, 24)], (1, 4, 8), {}, {}, 2 * 4 * 8 * 24 + 4 * 16 * 8),
        ("LSTM", [(3, 2, 5)], (3, 1, 2, 4), {1: (1, 16, 5), 2: (1, 16, 4)}, {}, 2 * 6 * 144),
        ("Relu", [(5, 7)], (5, 7), {}, {}, 0),
        ("QLinearConv", [(2, 4, 8, 8)], (2, 6, 8, 8), {}, {}, None),
    ],
)
def test_flops(
    op: str,
    inputs: list[tuple[int, ...]],
    output: tuple[int, ...],
    weights: dict[int, tuple[int, ...]],
    attributes: dict[str, int],
    expected: int | None,
) -> None:
    assert flops(op, inputs, output, weights, attributes) == expected
