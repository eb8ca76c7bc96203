"""What is known of this machine without a TensorRT: the driver's files and nvidia-smi."""

from __future__ import annotations

import platform
import sys
from pathlib import Path

import pytest

from orchestrator.backends.tensorrt.here import driver_identity, has_tensorrt, identify
from orchestrator.backends.tensorrt.toolchain import Toolchain

SYSTEM = {"platform": f"{sys.platform}-{platform.machine()}"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder with programs; it is empty."""
    made = tmp_path / "bin"
    made.mkdir()
    monkeypatch.setenv("PATH", str(made))
    return made


def smi(folder: Path, *lines: str, code: int = 0) -> None:
    path = folder / "nvidia-smi"
    printed = "".join(f"echo '{line}'\n" for line in lines)
    path.write_text(f"#!/bin/sh\n{printed}exit {code}\n")
    path.chmod(0o755)


def driver(root: Path, *models: str) -> Path:
    """As the kernel module of driver 580 writes them."""
    nvidia = root / "nvidia"
    for number, model in enumerate(models):
        gpu = nvidia / "gpus" / f"0000:0{number}:00.0"
        gpu.mkdir(parents=True)
        text = f"Model: \t\t {model}\nIRQ:   \t\t 99\nGPU UUID: \t GPU-{number}\n"
        (gpu / "information").write_text(text)
    (nvidia / "version").write_text(
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build\n"
        "GCC version:  gcc version 13.3.0 (Ubuntu 13.3.0-6ubuntu2~24.04)\n"
    )
    return nvidia


def test_no_driver(folder: Path, tmp_path: Path) -> None:
    assert driver_identity(tmp_path / "nvidia") == SYSTEM


def test_the_kernel_tells_names_and_not_the_capability(folder: Path, tmp_path: Path) -> None:
    assert driver_identity(driver(tmp_path, "NVIDIA H200")) == {
        **SYSTEM,
        "driver": "580.95.05",
        "gpus": ["NVIDIA H200"],
        "device": {"name": "NVIDIA H200"},
    }


def test_nvidia_smi_tells_the_capability(folder: Path, tmp_path: Path) -> None:
    smi(folder, "580.95.05, 9.0, NVIDIA H200", "580.95.05, 9.0, NVIDIA H200")
    assert driver_identity(tmp_path / "nvidia") == {
        **SYSTEM,
        "driver": "580.95.05",
        "gpus": ["NVIDIA H200", "NVIDIA H200"],
        "device": {"name": "NVIDIA H200", "compute_capability": "9.0"},
    }


def test_unequal_gpus_are_not_one_device(folder: Path, tmp_path: Path) -> None:
    smi(folder, "580.95.05, 8.6, NVIDIA A40", "580.95.05, 8.6, NVIDIA RTX A2000, 12GB")
    found = driver_identity(tmp_path)
    assert found["device"] == {"compute_capability": "8.6"}
    assert found["gpus"] == ["NVIDIA A40", "NVIDIA RTX A2000, 12GB"]
    smi(folder, "580.95.05, 8.0, NVIDIA A100", "580.95.05, 9.0, NVIDIA H200")
    assert "device" not in driver_identity(tmp_path)


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("NVIDIA-SMI has failed because it could not communicate with the NVIDIA driver.", 9),
        ("580.95.05, 9.0, NVIDIA H200", 1),
        ('Field "compute_cap" is not a valid field to query.', 0),
        ("580.95.05, [N/A], NVIDIA H200", 0),
        ("", 0),
    ],
)
def test_what_nvidia_smi_fails_with_is_no_gpu(
    folder: Path, tmp_path: Path, line: str, code: int
) -> None:
    smi(folder, line, code=code)
    assert driver_identity(tmp_path / "nvidia") == SYSTEM
    assert driver_identity(driver(tmp_path, "NVIDIA H200"))["device"] == {"name": "NVIDIA H200"}


def test_a_program_that_cannot_start_is_no_gpu(folder: Path, tmp_path: Path) -> None:
    (folder / "nvidia-smi").write_text("no program")
    (folder / "nvidia-smi").chmod(0o755)
    assert driver_identity(tmp_path) == SYSTEM


def test_a_folder_called_tensorrt_is_no_tensorrt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if has_tensorrt():
        pytest.skip("this interpreter has a TensorRT")
    (tmp_path / "tensorrt").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert not has_tensorrt()
    (tmp_path / "tensorrt" / "__init__.py").touch()
    assert has_tensorrt()


def test_a_local_toolchain_without_tensorrt_leaves_what_the_driver_tells(
    folder: Path, tmp_path: Path
) -> None:
    bare = Toolchain(name="bare", command=(sys.executable, "-I", "-S"))  # no site-packages
    found = identify(bare, nvidia=driver(tmp_path, "NVIDIA H200"))
    assert found.source == "toolchain bare"
    assert found.identity["device"] == {"name": "NVIDIA H200"}
    assert found.identity["python"] == platform.python_version()
    assert found.problem is not None
    assert "TensorRT is not installed" in found.problem.text
    assert found.problem.hint


def test_a_far_toolchain_has_nothing_of_this_machine(folder: Path, tmp_path: Path) -> None:
    far = Toolchain(name="far", command=("ssh", "host", "python3"))
    found = identify(far, nvidia=driver(tmp_path, "NVIDIA H200"))
    assert found.identity == {}
    assert found.problem is not None
    assert "there is no program 'ssh'" in found.problem.text
