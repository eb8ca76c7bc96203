"""What happens around an engine when something dies, lies or is somebody else's: over the stand-in.

Each test asks for engines that differ in the workspace's size, so that only they are built.
"""

from __future__ import annotations

import json
import signal
import subprocess
import uuid
from pathlib import Path

import psutil
import pytest

from tests.backends.tensorrt.standin.project import events, make_project
from tests.command import Workplace
from tests.executor.processes import PATIENCE_S, end, is_running, until

NET = ("target=tensorrt", "toolchain=trt86", "model=net", "benchmark=none")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """A project whose small model was built once, so that what comes before engines is stored."""
    place = Workplace.at(tmp_path_factory.mktemp("toolchains"))
    make_project(place.directory)
    first = place.build(*NET)
    assert first.code == 0, first.text
    return place


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Where the toolchain's events of this test go."""
    return tmp_path / "events"


def engine(mib: int) -> tuple[str, ...]:
    """The words for an engine of its own, built at most once."""
    return (*NET, f"++target.workspace_mib={mib}", "executor.retries=0")


def broken(log: Path, fault: str = "") -> dict[str, str]:
    return {"STANDIN_COUNT": str(log), "STANDIN_FAULT": fault}


def seen(log: Path) -> list[str]:
    """The events of builds so far."""
    return [one["event"] for one in events(log) if one["event"] in ("build", "built")]


def builder(log: Path) -> int:
    """The process of the latest build."""
    return int([one["pid"] for one in events(log) if one["event"] == "build"][-1])


def finished(process: subprocess.Popen[str]) -> int:
    """Wait for a process and return how it ended."""
    process.communicate(timeout=PATIENCE_S)
    return process.returncode


@pytest.mark.parametrize(
    ("fault", "mib", "text"),
    [
        ("oom", 1, "out of memory"),
        pytest.param("crash_in_build", 2, "SIGSEGV", marks=pytest.mark.slow),
        pytest.param("none_built", 3, "Could not find any", marks=pytest.mark.slow),
        pytest.param("device_lost", 4, "unspecified launch failure", marks=pytest.mark.slow),
    ],
)
def test_a_failure_is_told_and_not_remembered(
    built: Workplace, log: Path, fault: str, mib: int, text: str
) -> None:
    failed = built.build(*engine(mib), env=broken(log, fault))
    assert failed.code == 1
    assert text in failed.text
    again = built.build(*engine(mib), env=broken(log))
    assert again.code == 0, again.text
    once = fault == "device_lost"  # the engine was built, and only its run failed
    assert seen(log).count("build") == (1 if once else 2)
    assert seen(log).count("built") == 1


def test_a_lying_builder_fails_the_variant_and_names_the_layers(
    built: Workplace, log: Path
) -> None:
    failed = built.build(*engine(10), env=broken(log, "silent_tf32"))
    assert failed.code == 1
    (variant,) = failed.variants
    assert variant["summary"]["verdict"] == "refuted"
    assert "asked fp32, but" in failed.text
    assert "'conv1' (tf32)" in failed.text
    assert built.build(*engine(10), env=broken(log)).code == 1, "it is the same engine"
    assert seen(log) == ["build", "built"]


@pytest.mark.slow
def test_an_engine_that_computes_something_else_is_judged(built: Workplace, log: Path) -> None:
    failed = built.build(*engine(11), env=broken(log, "wrong"))
    assert failed.code == 1
    assert {one["where"] for one in failed.variants[0]["failures"]} == {"engine (fp32)"}
    assert "output y: largest error" in failed.variants[0]["failures"][0]["message"]


@pytest.mark.slow
def test_another_device_than_planned_for_stores_nothing(
    built: Workplace, tmp_path: Path, log: Path
) -> None:
    place = built.copied(tmp_path / "copy")
    assert place.build(*NET, env=broken(log)).code == 0
    other = {**broken(log), "STANDIN_DEVICE": '{"name": "Another GPU"}'}
    before = place.run("cache", "stats").out
    failed = place.build(*engine(20), env=other)
    assert failed.code == 1
    assert "expected Stand-in GPU, found Another GPU" in failed.text
    assert seen(log) == []
    assert place.run("cache", "stats").out == before
    again = place.build(*engine(20), env=other)
    assert again.code == 0, again.text
    assert [one["op"] for one in events(log) if one["event"] == "start"].count("probe") == 2
    assert seen(log) == ["build", "built"]


def test_one_gpu_builds_one_engine_at_a_time(built: Workplace, log: Path) -> None:
    sweep = ("-m", *NET, "++target.workspace_mib=30,31", "executor.workers=2")
    done = built.build(*sweep, env=broken(log, "slow:0.3"))
    assert done.code == 0, done.text
    assert seen(log) == ["build", "built"] * 2


@pytest.mark.slow
def test_equal_gpus_build_engines_at_once(built: Workplace, tmp_path: Path, log: Path) -> None:
    """Each build waits until both have begun; what is stored is what one GPU would have stored."""
    uuids = [f"GPU-{uuid.uuid4()}" for _ in range(2)]
    place = built.copied(tmp_path / "copy")
    two = {**broken(log, f"hold:{tmp_path / 'go'}"), "STANDIN_DEVICE": devices(*uuids)}
    two["CUDA_VISIBLE_DEVICES"] = "0,1"  # so that the toolchain is asked again
    sweep = ("-m", *NET, "++target.workspace_mib=32,33", "executor.workers=2")
    with place.running(*sweep, env=two) as sweeping:
        until(lambda: seen(log) == ["build"] * 2, "both builders are at work")
        (tmp_path / "go").touch()
        assert finished(sweeping) == 0
    plans = [path.read_text() for path in place.store.glob("**/engine.plan.json")]
    assert {name for name in uuids for text in plans if name in text} == set(uuids)
    one = {**broken(log), "STANDIN_DEVICE": devices(uuids[1]), "CUDA_VISIBLE_DEVICES": "0"}
    again = place.build(*sweep, env=one)
    assert again.code == 0, again.text
    assert seen(log) == ["build"] * 2 + ["built"] * 2, "which GPU built it is in no key"


def devices(*uuids: str) -> str:
    """STANDIN_DEVICE for equal GPUs."""
    return json.dumps([{"uuid": one} for one in uuids])


@pytest.mark.slow
def test_two_processes_build_an_engine_once(built: Workplace, tmp_path: Path, log: Path) -> None:
    held = broken(log, f"hold:{tmp_path / 'go'}")
    with built.running(*engine(40), env=held) as first:
        until(lambda: seen(log), "the first builder is at work")
        with built.running(*engine(40), env=held) as second:
            sessions = built.store / "tmp"
            until(lambda: len(list(sessions.glob("*.lock"))) == 2, "both are there")
            assert second.poll() is None
            (tmp_path / "go").touch()
            assert finished(first) == 0
            assert finished(second) == 0
    assert seen(log) == ["build", "built"]


@pytest.mark.slow
@pytest.mark.parametrize(("transport", "mib"), [("directory", 41), ("pipe", 47)])
def test_a_killed_parent_leaves_no_builder_beside_the_next(
    built: Workplace, tmp_path: Path, log: Path, transport: str, mib: int
) -> None:
    words = (*engine(mib), f"++toolchain.transport={transport}")
    with built.running(*words, env=broken(log, f"hold:{tmp_path / 'never'}")) as first:
        until(lambda: seen(log), "the builder is at work")
        orphan = builder(log)
        first.send_signal(signal.SIGKILL)
        with built.running(*words, env=broken(log, f"hold:{tmp_path / 'go'}")) as second:
            until(lambda: len(seen(log)) == 2, "the second builder is at work")
            assert not is_running(orphan), "never two at a time"
            (tmp_path / "go").touch()
            assert finished(second) == 0
    assert seen(log) == ["build", "build", "built"]


@pytest.mark.slow
@pytest.mark.parametrize(("victim", "mib"), [("toolchain", 42), ("worker", 43)])
def test_a_killed_builder_is_told_and_the_next_run_builds(
    built: Workplace, tmp_path: Path, log: Path, victim: str, mib: int
) -> None:
    with built.running(*engine(mib), env=broken(log, f"hold:{tmp_path / 'never'}")) as first:
        until(lambda: seen(log), "the builder is at work")
        process = psutil.Process(builder(log))
        carrier = process.parent()
        assert carrier is not None
        end(process.pid if victim == "toolchain" else carrier.ppid())
        assert finished(first) == 1
        until(lambda: not is_running(process.pid), "nothing builds any more")
    again = built.build(*engine(mib), env=broken(log))
    assert again.code == 0, again.text
    assert seen(log) == ["build", "build", "built"]
    assert built.whole()


@pytest.mark.slow
def test_an_interrupt_ends_the_builder(built: Workplace, tmp_path: Path, log: Path) -> None:
    with built.running(*engine(44), env=broken(log, f"hold:{tmp_path / 'never'}")) as first:
        until(lambda: seen(log), "the builder is at work")
        first.send_signal(signal.SIGINT)
        assert finished(first) == 130
        until(lambda: not is_running(builder(log)), "nothing builds any more")


@pytest.mark.slow
def test_a_build_that_takes_too_long_is_ended(built: Workplace, tmp_path: Path, log: Path) -> None:
    words = (*engine(45), "executor.timeout_s=3")
    failed = built.build(*words, env=broken(log, f"hold:{tmp_path / 'never'}"))
    assert failed.code == 1
    assert "executor.timeout_s" in failed.text
    until(lambda: not is_running(builder(log)), "nothing builds any more")


@pytest.mark.slow
def test_a_flipped_bit_in_a_stored_engine_is_never_loaded(
    built: Workplace, tmp_path: Path, log: Path
) -> None:
    """TensorRT itself would load it without complaint."""
    place = built.copied(tmp_path / "copy")
    words = engine(46)
    (variant,) = place.build(*words, env=broken(log)).variants
    plan = (Path(variant["directory"]) / "artifacts" / "engine" / "engine.plan").resolve()
    data = bytearray(plan.read_bytes())
    data[-100] ^= 1
    plan.chmod(0o644)
    plan.write_bytes(data)
    assert not place.whole()
    again = place.build(*words, "benchmark=default", env=broken(log))
    assert again.code == 0, again.text
    assert seen(log) == ["build", "built"] * 2, "it is built again"
