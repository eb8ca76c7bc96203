"""A toolchain is asked once, and again when something that decides its answer has changed."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.backends.tensorrt import worker
from orchestrator.backends.tensorrt.failures import ToolchainError
from orchestrator.backends.tensorrt.probe import Probed, forget, is_mismatch, probe
from orchestrator.backends.tensorrt.toolchain import Toolchain
from orchestrator.errors import PlanError
from orchestrator.store.index import Index

DATA = Path(__file__).parent / "data"
FAR = DATA / "far_worker.py"
LOCAL = Toolchain()
FAR_AWAY = Toolchain(name="far", command=("ssh", "host", sys.executable), installation="image 1")


class World:
    """A machine with a driver, an index and a count of how often a far side was really asked."""

    def __init__(self, root: Path) -> None:
        self.index = Index(root / "index")
        self.nvidia = root / "nvidia"
        self.count = root / "count"
        self.time = 1_000_000.0
        self.worker = root / "far_worker.py"
        self.worker.write_bytes(FAR.read_bytes())
        self.driver("580.1")
        self.gpu("NVIDIA H200", "GPU-1")

    def driver(self, version: str) -> None:
        self.nvidia.mkdir(exist_ok=True)
        (self.nvidia / "version").write_text(f"NVRM version: {version}\n")

    def gpu(self, model: str, uuid: str) -> None:
        folder = self.nvidia / "gpus" / "0000:01:00.0"
        folder.mkdir(parents=True, exist_ok=True)
        text = f"Model: \t\t {model}\nIRQ:   \t\t 99\nGPU UUID: \t {uuid}\n"
        (folder / "information").write_text(text)

    def ask(self, toolchain: Toolchain = LOCAL, **more: Any) -> Probed:
        return probe(
            toolchain,
            self.index,
            worker=self.worker,
            nvidia=self.nvidia,
            now=lambda: self.time,
            **more,
        )

    @property
    def asked(self) -> int:
        return len(self.count.read_text().splitlines()) if self.count.exists() else 0


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    made = World(tmp_path)
    monkeypatch.setenv("FAR_COUNT", str(made.count))
    monkeypatch.setenv("PATH", f"{DATA}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    yield made
    made.index.close()


@pytest.mark.parametrize("toolchain", [LOCAL, FAR_AWAY])
def test_an_answer_is_remembered(toolchain: Toolchain, world: World) -> None:
    first = world.ask(toolchain)
    assert first.seen["tensorrt"] == "8.6.0"
    assert first.capabilities == {"precisions": ["fp16"]}
    assert world.ask(toolchain) == first
    assert world.asked == 1
    assert world.ask(toolchain, fresh=True) == first
    assert world.asked == 2


def test_another_process_remembers_too(world: World, tmp_path: Path) -> None:
    first = world.ask()
    world.index.close()
    world.index = Index(tmp_path / "index")
    assert world.ask() == first
    assert world.asked == 1


def test_without_an_index_it_asks_each_time(world: World) -> None:
    for times in (1, 2):
        probe(LOCAL, None, worker=world.worker, nvidia=world.nvidia)
        assert world.asked == times


def test_driver_gpu_and_visible_devices(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.ask()
    world.driver("590.2")
    world.ask()
    assert world.asked == 2
    world.gpu("NVIDIA H100", "GPU-2")
    world.ask()
    assert world.asked == 3
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    world.ask()
    assert world.asked == 4
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    world.ask()  # both answers are remembered, side by side
    assert world.asked == 4


def test_an_override_of_tf32_is_another_toolchain(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    world.ask()
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    world.ask()
    assert world.asked == 2
    seen = worker.interpreter_identity()
    assert Probed(seen=seen, capabilities={}).expectation["nvidia_tf32_override"] == "0"


def test_a_machine_whose_driver_tells_nothing(world: World) -> None:
    (world.nvidia / "version").unlink()
    world.ask()
    world.ask()
    assert world.asked == 1


def test_a_local_installation_is_looked_at(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    site = world.nvidia.parent / "site"
    record = site / "tensorrt-8.6.0.dist-info" / "RECORD"
    record.parent.mkdir(parents=True)
    record.write_text("tensorrt/__init__.py,,\n")
    monkeypatch.setenv("PYTHONPATH", str(site))
    world.ask()
    (site / "unrelated-1.0.dist-info").mkdir()
    world.ask()
    assert world.asked == 1
    record.write_text("tensorrt/__init__.py,,\ntensorrt/more.py,,\n")
    world.ask()
    assert world.asked == 2
    record.parent.rename(site / "tensorrt-10.0.1.dist-info")
    world.ask()
    assert world.asked == 3
    (site / "tensorrt_cu12_bindings-10.0.1.dist-info").mkdir()
    world.ask()
    assert world.asked == 4


def test_a_wrapper_script_is_part_of_the_installation(world: World, tmp_path: Path) -> None:
    wrapper = tmp_path / "python-trt"
    wrapper.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    wrapper.chmod(0o755)
    toolchain = Toolchain(name="wrapped", command=("env", "A=1", str(wrapper)))
    world.ask(toolchain)
    world.ask(toolchain)
    assert world.asked == 1
    wrapper.write_text(f'#!/bin/sh\n# changed\nexec {sys.executable} "$@"\n')
    world.ask(toolchain)
    assert world.asked == 2


def test_far_away_the_configuration_and_age_decide(world: World) -> None:
    world.ask(FAR_AWAY)
    world.time += FAR_AWAY.max_age_s - 1
    world.ask(FAR_AWAY)
    assert world.asked == 1
    world.time += 2
    world.ask(FAR_AWAY)
    assert world.asked == 2
    world.ask(replace(FAR_AWAY, installation="image 2"))
    assert world.asked == 3
    world.time -= 1e6  # a clock that was set back makes no answer young
    world.ask(replace(FAR_AWAY, installation="image 2"))
    assert world.asked == 4


def test_a_local_answer_does_not_age(world: World) -> None:
    world.ask()
    world.time += 1e9
    world.ask()
    assert world.asked == 1


def test_commands_are_told_apart(world: World) -> None:
    world.ask()
    world.ask(Toolchain(name="other", command=(sys.executable, "-u")))
    assert world.asked == 2
    world.ask(Toolchain(name="the same by another name", command=(sys.executable,)))
    assert world.asked == 2


def test_a_new_worker_asks_again(world: World) -> None:
    world.ask()
    world.worker.write_text(world.worker.read_text() + "\nNEW = 1\n")
    world.ask()
    assert world.asked == 2


def test_a_mismatch_forgets(world: World) -> None:
    world.ask()
    forget(LOCAL, world.index, worker=world.worker)
    world.ask()
    assert world.asked == 2
    assert is_mismatch(ToolchainError("another device", kind="mismatch"))
    assert not is_mismatch(ToolchainError("no", kind="refused"))
    assert not is_mismatch(PlanError("no"))


def test_a_failure_is_a_plan_error_and_not_remembered(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAR_MISSING", "1")
    for times in (1, 2):
        with pytest.raises(PlanError, match="toolchain local: no module named tensorrt") as caught:
            world.ask()
        assert caught.value.hint == "install TensorRT there"
        assert world.asked == times
    monkeypatch.delenv("FAR_MISSING")
    world.ask()
    assert world.asked == 3


def test_the_real_worker_where_there_is_no_tensorrt(world: World) -> None:
    bare = Toolchain(name="bare", command=(sys.executable, "-I", "-S"))  # no site-packages
    with pytest.raises(PlanError, match=r"toolchain bare: .*" + sys.executable) as caught:
        probe(bare, world.index, nvidia=world.nvidia)
    assert caught.value.hint


@pytest.mark.parametrize("text", ["", "{", "[]", '{"at": "x"}', '{"at": 1, "stamp": 2}'])
def test_damaged_memory_is_asked_again(text: str, world: World) -> None:
    class Damaged(Index):
        def get(self, key: str) -> str | None:
            return text if key.startswith("tensorrt-probe:") else super().get(key)

    world.index = Damaged(world.nvidia.parent / "damaged")
    assert world.ask().seen["tensorrt_major"] == 8
    assert world.asked == 1


def test_what_keys_hold() -> None:
    seen = {
        "tensorrt": "8.6.0",
        "python": "3.10",
        "cuda_driver": "13.0",
        "cuda_runtime": "12.0",
        "device": {"name": "H200", "uuid": "GPU-1", "sms": 132},
    }
    expected = {
        "tensorrt": "8.6.0",
        "cuda_runtime": "12.0",
        "device": {"name": "H200", "sms": 132},
    }
    assert Probed(seen=seen, capabilities={}).expectation == expected
    assert seen["python"] == "3.10"


def test_a_few_megabytes_more_are_no_other_device() -> None:
    device = {"name": "NVIDIA H200", "memory_gib": 140, "uuid": "GPU-1"}
    before = Probed(seen={"device": {**device, "memory_bytes": 150_110_011_392}}, capabilities={})
    after = Probed(seen={"device": {**device, "memory_bytes": 150_103_719_936}}, capabilities={})
    other = Probed(seen={"device": {**device, "memory_gib": 80}}, capabilities={})
    assert before.expectation == after.expectation != other.expectation
