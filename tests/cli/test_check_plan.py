"""``orchestrate check-plan``: what it says of plans that load, and of those that do not.

The plans are made by hand (their headers are as 8.6.0 wrote them), the TensorRT that is asked is
the stand-in, so nothing here says what TensorRT itself would do.
"""

from __future__ import annotations

import json
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.backends.tensorrt.here import has_tensorrt
from orchestrator.backends.tensorrt.plan_file import NAME, manifest_path, write_manifest
from orchestrator.cli.main import main
from orchestrator.store.store import Store
from tests.backends.tensorrt.standin import command
from tests.command import Workplace

UNREADABLE = "/proc/self/mem"  # a regular file, and reading it fails, for root too
LOADS, LOADS_NOT, USAGE, NOT_KNOWN = 0, 1, 2, 4
H200 = {"name": "NVIDIA H200", "compute_capability": "9.0", "sms": 132, "memory_bytes": 8 << 30}
SYSTEM = f"{sys.platform}-{platform.machine()}"
BUILT = {"tensorrt": "8.6.0", "cuda_runtime": "12.0", "platform": SYSTEM, "device": H200}
TOLD = {
    "precision": {"mode": "weak", "flags": ["FP16"], "tf32": True, "keep_layers": []},
    "inputs": [{"name": "image", "dtype": "float32", "shape": [-1, 3, 8, 8]}],
    "outputs": [{"name": "logits", "dtype": "float32", "shape": [-1, 10]}],
    "profiles": [{"image": {"min": [1, 3, 8, 8], "opt": [4, 3, 8, 8], "max": [8, 3, 8, 8]}}],
}


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working directory and a store; give the file that counts what the stand-in is asked."""
    root = tmp_path_factory.mktemp("check")
    (root / "bin").mkdir()
    (root / "bin" / "env").symlink_to(shutil.which("env") or "env")
    (root / "work").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(root / "cache"))
        patch.setenv("PATH", str(root / "bin"))  # no nvidia-smi: a GPU of this machine is unknown
        patch.chdir(root / "work")
        Store(root / "cache" / "orchestrate").end()
        yield root / "count"


@pytest.fixture
def toolchain(asked: Path) -> list[str]:
    """The options that name the stand-in; it is asked once, and remembered for all tests."""
    words = command(version="8.6.0", device=json.dumps(H200), count=str(asked))
    return ["--toolchain", *words]


def made(folder: Path, version: tuple[int, ...] = (8, 6, 0, 12), **more: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / NAME
    path.write_bytes(b"ftrt" + bytes(20) + bytes(version) + b"\x5a" * 4068)
    write_manifest(path, BUILT, **{"more": TOLD, **more})
    return path


def check(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str]:
    """Return the exit code and what was printed."""
    code = main(["check-plan", *map(str, words)])
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err
    assert "internal error" not in printed.err
    assert bool(printed.out) == (code != USAGE)
    return code, printed.out or printed.err


def test_a_plan_that_will_load(
    tmp_path: Path, toolchain: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    plan = made(tmp_path)
    code, text = check(capsys, plan, *toolchain)
    assert code == LOADS
    lines = [" ".join(line.split()) for line in text.splitlines()]
    here = lines.pop(3)
    device = "NVIDIA H200, compute capability 9.0, 132 SMs, 8.0 GiB"
    assert here.startswith("here TensorRT 8.6.0, CUDA ")
    assert here.endswith(f", {device}, {SYSTEM} (toolchain python)")
    assert lines == [
        f"will load {plan}",
        "built with TensorRT 8.6.0.12, CUDA 12.0",
        f"built on {device}, {SYSTEM}",
        "file 4.0 KiB, as its manifest says",
        "precision FP16, TF32 on",
        "inputs image float32 [-1, 3, 8, 8]",
        "outputs logits float32 [-1, 10]",
        "profiles image 1x3x8x8 … 4x3x8x8 … 8x3x8x8",
    ]


def test_as_json(tmp_path: Path, toolchain: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    plan = made(tmp_path)
    code, text = check(capsys, "--json", plan, *toolchain)
    found = json.loads(text)
    assert code == LOADS
    assert (found["verdict"], found["loads"], found["intact"]) == ("will load", True, True)
    assert (found["reasons"], found["warnings"], found["tensorrt"]) == ([], [], "8.6.0.12")
    assert found["here"]["tensorrt"] == "8.6.0"
    assert found["here"]["problem"] is None
    assert found["manifest"] == json.loads(manifest_path(plan).read_text())
    made(tmp_path, (10, 7, 0, 23))
    code, text = check(capsys, "--json", plan, *toolchain)
    found = json.loads(text)
    assert (code, found["verdict"], found["loads"]) == (LOADS_NOT, "will not load", False)
    (reason,) = found["reasons"]
    assert "built by TensorRT 10.7.0.23, here is 8.6.0" in reason["text"]
    assert reason["hint"] == "build it again with TensorRT 8.6.0, or load it with 10.7.0.23"
    manifest_path(plan).unlink()
    plan.write_bytes(b"")
    code, text = check(capsys, "--json", plan, *toolchain)
    found = json.loads(text)
    assert (code, found["tensorrt"], found["intact"]) == (LOADS_NOT, None, None)
    assert (found["manifest"], found["bytes"]) == (None, 0)


def flip(plan: Path, at: int) -> None:
    data = bytearray(plan.read_bytes())
    data[at] ^= 1
    plan.write_bytes(data)


def tell(plan: Path, **sections: Any) -> None:
    path = manifest_path(plan)
    path.write_text(json.dumps({**json.loads(path.read_text()), **sections}))


DAMAGES: dict[str, tuple[Callable[[Path], Any], int, str]] = {
    "empty": (lambda plan: plan.write_bytes(b""), LOADS_NOT, "the file is empty"),
    "no plan": (lambda plan: plan.write_bytes(b"PK\3\4"), LOADS_NOT, "not a TensorRT plan"),
    "truncated": (
        lambda plan: plan.write_bytes(plan.read_bytes()[:1000]),
        LOADS_NOT,
        "the plan has 1000 bytes, and its manifest says 4096",
    ),
    "cut within the header": (
        lambda plan: plan.write_bytes(plan.read_bytes()[:14]),
        LOADS_NOT,
        "the plan ends after 14 bytes",
    ),
    "one flipped bit": (lambda plan: flip(plan, 2000), LOADS_NOT, "SHA-256 differs"),
    "a flipped bit in the magic": (lambda plan: flip(plan, 0), LOADS_NOT, "not a TensorRT plan"),
    "a flipped bit in the version": (lambda plan: flip(plan, 24), LOADS_NOT, "SHA-256 differs"),
    "no manifest": (
        lambda plan: manifest_path(plan).unlink(),
        NOT_KNOWN,
        "put engine.plan.json from where it was built beside it",
    ),
    "damaged manifest": (
        lambda plan: manifest_path(plan).write_text('{"schema": 1'),
        NOT_KNOWN,
        "engine.plan.json: the plan's manifest is damaged",
    ),
    "binary manifest": (
        lambda plan: manifest_path(plan).write_bytes(b"\xff\0"),
        NOT_KNOWN,
        "engine.plan.json: the plan's manifest is damaged",
    ),
    "newer manifest": (
        lambda plan: tell(plan, schema=2),
        NOT_KNOWN,
        "has schema 2; the newest known is 1",
    ),
    "damaged section": (
        lambda plan: tell(plan, built=[1]),
        NOT_KNOWN,
        "'built' is not what it should be",
    ),
    "another system": (
        lambda plan: tell(plan, built={**BUILT, "platform": "linux-riscv64"}),
        LOADS_NOT,
        f"it is for linux-riscv64, here is {SYSTEM}",
    ),
    "another compute capability": (
        lambda plan: tell(plan, built={**BUILT, "device": {"compute_capability": "8.0"}}),
        LOADS_NOT,
        "or there with target.hardware_compatibility=ampere_plus",
    ),
    "another device of the same capability": (
        lambda plan: tell(plan, built={**BUILT, "device": {**H200, "name": "NVIDIA H100"}}),
        LOADS,
        "! it was tuned on another device (name NVIDIA H100, here NVIDIA H200)",
    ),
    "a missing plugin": (
        lambda plan: tell(plan, plugins={"libx.so": "ab" * 32}),
        LOADS_NOT,
        "it needs the plugin library libx.so",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_what_is_wrong_is_said(
    name: str, tmp_path: Path, toolchain: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    damage, expected, message = DAMAGES[name]
    plan = made(tmp_path)
    damage(plan)
    code, text = check(capsys, plan, *toolchain)
    assert code == expected
    assert message in " ".join(text.split())


def test_plugins_are_held_against_the_manifest(
    tmp_path: Path, toolchain: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    library = tmp_path / "libx.so"
    library.write_bytes(b"")
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"  # SHA-256 of nothing
    plan = made(tmp_path, plugins={"libx.so": empty})
    assert check(capsys, plan, "--plugin", library, *toolchain)[0] == LOADS
    library.write_bytes(b"another")
    code, text = check(capsys, plan, "--plugin", library, *toolchain)
    assert code == LOADS_NOT
    assert "the plugin library libx.so is not the one the plan was built with" in text
    assert "whose SHA-256 begins with e3b0c44298fc" in text
    for wrong in (tmp_path / "none.so", tmp_path, "x" * 300, UNREADABLE):
        code, text = check(capsys, plan, "--plugin", wrong, *toolchain)
        assert code == USAGE
        assert text.startswith(f"error: --plugin {wrong}: ")


def test_wider_compatibility_is_told(
    tmp_path: Path, toolchain: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"version_compatible": True, "hardware_compatibility": "ampere_plus"}
    code, text = check(capsys, made(tmp_path, (8, 5, 0, 1), options=options), *toolchain)
    assert code == LOADS
    assert "also loads in  later TensorRT versions, compute capability >= 8.0" in text


@pytest.mark.parametrize("folder", ["artifacts/engine", "model"])
def test_an_experiment_or_a_package_stands_for_its_plan(
    folder: str, tmp_path: Path, toolchain: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    plan = made(tmp_path / folder)
    code, text = check(capsys, tmp_path, *toolchain)
    assert code == LOADS
    assert text.startswith(f"will load  {plan}")


@pytest.mark.parametrize("text", [UNREADABLE, ".", "none", "x" * 300, "~nobody-here/x.plan"])
def test_a_file_that_cannot_be_read(
    text: str, asked: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, message = check(capsys, text)
    assert (code, message.startswith("error: "), text in message) == (USAGE, True, True)
    code, message = check(capsys, text, "--json")
    event = json.loads(message)
    assert (code, event["event"]) == (USAGE, "error")
    assert text in event["where"] + event["message"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no plan was named"),
        (["--toolchain", "python3", "engine.plan"], "write FILE before --toolchain"),
        (["engine.plan", "--toolchain"], "has no words"),
        (["engine.plan", "--toolchain", ""], "has no words"),
        (["engine.plan", "--toolchain", "env", ""], "has no words, or an empty one"),
        (["engine.plan", "--toolchain", "python3", "--json"], "write --json before it"),
        (["engine.plan", "--toolchain", "'python3"], "cannot be split into words"),
        (["engine.plan", "other.plan"], "unknown option 'other.plan'"),
        (["engine.plan", "--jsn"], "did you mean '--json'?"),
    ],
)
def test_wrong_usage(
    words: list[str], message: str, asked: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, text = check(capsys, *words)
    assert code == USAGE
    assert message in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((sys.executable, "-I", "-S"), f"TensorRT is not installed in {sys.executable}"),
        ((f"{sys.executable} -I -S",), f"TensorRT is not installed in {sys.executable}"),
        (("python-of-nobody",), "there is no program 'python-of-nobody'"),
    ],
)
def test_a_toolchain_that_gives_no_answer(
    words: tuple[str, ...], message: str, tmp_path: Path, asked: Path, capsys: Any
) -> None:
    plan = made(tmp_path)
    code, text = check(capsys, plan, "--toolchain", *words)
    assert code == NOT_KNOWN
    assert text.startswith(f"not known  {plan}")
    assert message in text
    flip(plan, 2000)  # what is wrong with the file is wrong wherever it would be loaded
    code, text = check(capsys, plan, "--toolchain", *words)
    assert code == LOADS_NOT
    assert message in text


def test_a_toolchain_without_a_device_still_tells_its_version(
    tmp_path: Path, asked: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--toolchain", *command(version="8.6.0", fault="no_driver")]
    code, text = check(capsys, made(tmp_path), *words)
    assert code == NOT_KNOWN
    assert "no CUDA device" in text
    code, text = check(capsys, made(tmp_path, (10, 7, 0, 23)), *words)
    assert code == LOADS_NOT
    assert "built by TensorRT 10.7.0.23, here is 8.6.0" in text


@pytest.mark.skipif(has_tensorrt(), reason="this interpreter has a TensorRT")
def test_without_a_tensorrt(
    tmp_path: Path, asked: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = made(tmp_path)
    code, text = check(capsys, plan)
    assert code == NOT_KNOWN
    assert "there is no TensorRT in this interpreter to hold the plan against" in text
    assert "--toolchain WORDS names a Python that has it" in text
    flip(plan, 2000)
    assert check(capsys, plan)[0] == LOADS_NOT


def test_the_toolchain_is_asked_once(
    tmp_path: Path, asked: Path, toolchain: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    count = tmp_path / "count"
    words = ["--toolchain", *command(version="8.6.0", device=json.dumps(H200), count=str(count))]
    for _ in range(2):
        assert check(capsys, made(tmp_path), *words)[0] == LOADS
    assert len(count.read_text().splitlines()) == 1


def test_looking_makes_no_store_and_needs_no_configuration(
    tmp_path: Path,
    asked: Path,
    toolchain: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert check(capsys, made(tmp_path), *toolchain)[0] == LOADS
    assert not (tmp_path / "cache").exists()
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "orchestrate.yaml").write_text("a: [")
    monkeypatch.chdir(tmp_path)
    assert check(capsys, NAME, *toolchain)[0] == LOADS


def test_a_manifest_is_shown_and_not_obeyed(
    tmp_path: Path, toolchain: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    more = {
        "precision": "\x1b]0;title\x07[bold]fp16[/nonsense] \ud800",
        "inputs": "x" * 1000,
        "outputs": [{"name": name} for name in "abcdefghijk"],
        "profiles": {"image": 1},
    }
    code, text = check(capsys, made(tmp_path, more=more), *toolchain)
    assert code == LOADS
    assert "\x1b" not in text
    assert "[bold]fp16[/nonsense] ?" in text
    assert "… and 3 more" in text
    assert max(map(len, text.splitlines())) < 200


def test_it_imports_nothing_heavy(tmp_path: Path) -> None:
    place = Workplace.at(tmp_path)
    plan = made(place.directory)
    ran = place.watch("check-plan", NAME, "--toolchain", sys.executable, "-I", "-S")
    assert ran.code == NOT_KNOWN
    assert str(plan.name) in ran.out
    assert ran.heavy == []


def test_help_tells_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["check-plan", "--help"])
    text = capsys.readouterr().out
    assert ended.value.code == 0
    assert text.startswith("usage: orchestrate check-plan")
    assert "0 it will load, 1 it will not, 2 wrong usage or no such file, 4 not known" in text
