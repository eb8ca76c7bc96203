"""Toolchains by directory and by pipe, here and through stand-ins of ssh and docker."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.backends.tensorrt import transport
from orchestrator.backends.tensorrt.failures import ToolchainError
from orchestrator.backends.tensorrt.toolchain import Toolchain, Watch, call
from orchestrator.errors import ConfigError, OrchestrateError, StageError, WorkerLostError
from orchestrator.store.locks import take, try_lock

DATA = Path(__file__).parent / "data"
FAR = DATA / "far_worker.py"
PYTHON = sys.executable

Toolchains = dict[str, Toolchain]
KINDS = ("local", "env", "ssh", "docker", "pipe", "mounted")


@pytest.fixture
def toolchains(monkeypatch: pytest.MonkeyPatch) -> Toolchains:
    monkeypatch.setenv("PATH", f"{DATA}{os.pathsep}{os.environ['PATH']}")
    docker = ("docker", "run", "--gpus", "all", "-i", "image", PYTHON)
    return {
        "local": Toolchain(),
        "env": Toolchain(name="env", command=("env", "-u", "X", "FAR_WORD=1 2", PYTHON)),
        "ssh": Toolchain(name="far", command=("ssh", "-p", "22", "host", PYTHON)),
        "docker": Toolchain(name="box", command=docker),
        "pipe": Toolchain(name="pipe", command=(PYTHON,), transport="pipe"),
        "mounted": Toolchain(name="mounted", command=docker, transport="directory"),
    }


@pytest.fixture
def ask(tmp_path: Path, toolchains: Toolchains) -> Callable[..., Any]:
    def run(kind: str, request: dict[str, Any], **more: Any) -> Any:
        directory = tmp_path / f"call-{len(list(tmp_path.iterdir()))}"
        directory.mkdir()
        return call(toolchains[kind], request, directory, **{"worker": FAR, **more})

    return run


@pytest.mark.parametrize("kind", KINDS)
def test_files_go_and_come_back(kind: str, tmp_path: Path, toolchains: Toolchains) -> None:
    odd = "a 'quoted' \"name\" with $HOME ; and ünicode"
    tree = tmp_path / "tree" / odd
    tree.mkdir(parents=True)
    large = bytes(range(256)) * 12_345  # larger than pipes, frames and tar's blocks
    (tree / "large.bin").write_bytes(large)
    (tree / "empty").write_bytes(b"")
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "w.bin").write_bytes(b"abc\n\0")
    (tree / "weights").symlink_to(tmp_path / "weights")
    directory = tmp_path / f"request {odd}"
    directory.mkdir()
    log: list[str] = []
    progress: list[tuple[float, str]] = []
    answer = call(
        toolchains[kind],
        {"op": "copy", "from": "in/tree", "to": "out"},
        directory,
        files={"in/tree": tree},
        watch=Watch(log=log.append, progress=lambda done, text: progress.append((done, text))),
        worker=FAR,
    )
    assert (directory / "out" / "large.bin").read_bytes() == large[::-1]
    assert (directory / "out" / "empty").read_bytes() == b""
    if toolchains[kind].pipe or kind == "mounted":  # rglob does not enter linked directories
        assert (directory / "out" / "weights" / "w.bin").read_bytes() == b"\0\ncba"
    assert (tree / "large.bin").read_bytes() == large
    assert answer.seen["tensorrt"] == "8.6.0"
    assert answer.values["argv"] == "far_worker.py"
    assert answer.values["main"] == "__main__"
    assert "" not in answer.values["cwd_first"]
    assert Path(answer.interpreter["executable"]).samefile(PYTHON)
    assert progress == [(0.5, "copying")]
    assert "TensorRT warning: half way" in log
    assert "to standard error" in log
    assert "no event: a library prints" in log
    assert not list(directory.glob(".received*"))


@pytest.mark.parametrize("kind", ["local", "pipe"])
def test_nothing_in_the_working_directory_shadows_a_library(
    kind: str, ask: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("json", "random", "shutil", "tempfile"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('of the project')\n")
    monkeypatch.chdir(tmp_path)
    assert ask(kind, {"op": "probe"}).seen["tensorrt"] == "8.6.0"


def test_banners_are_no_events(ask: Callable[..., Any]) -> None:
    log: list[str] = []
    ask("ssh", {"op": "none"}, watch=Watch(log=log.append))
    assert "a banner of the login script" in log
    log.clear()
    ask("docker", {"op": "none"}, watch=Watch(log=log.append))
    assert "a banner without a line end" in log


def test_ssh_words_survive_a_shell(toolchains: Toolchains) -> None:
    line = toolchains["ssh"].line()
    assert line[:3] == ["ssh", "-o", "BatchMode=yes"]
    assert shlex.split(" ".join(line[line.index(PYTHON) :])) == [
        PYTHON,
        *transport.arguments(remote_shell=False),
    ]
    # csh and fish quote otherwise than sh: the words must not need it
    assert not set("'\\!\n") & set(transport.BOOTSTRAP)
    own = Toolchain(command=("ssh", "-o", "BatchMode=no", "host", "python3"))
    assert own.line().count("-o") == 1


def test_the_users_own_words_reach_the_remote_shell(ask: Callable[..., Any]) -> None:
    toolchain = Toolchain(name="far", command=("ssh", "host", f"true && exec {PYTHON} -u"))
    assert toolchain.pipe
    line = toolchain.line()
    assert line[4] == f"true && exec {PYTHON} -u"


@pytest.mark.parametrize(
    ("command", "program", "pipe", "here"),
    [
        (None, Path(sys.executable).name, False, True),
        (("python3.8",), "python3.8", False, True),
        (("/usr/bin/ssh", "h", "python"), "ssh", True, False),
        (("env", "A=1", "-u", "B", "podman", "run", "-i", "i", "python"), "podman", True, False),
        (("env",), "env", False, True),
    ],
)
def test_program(command: tuple[str, ...] | None, program: str, pipe: bool, here: bool) -> None:
    toolchain = Toolchain(command=command)
    assert (toolchain.program, toolchain.pipe, toolchain.here) == (program, pipe, here)


@pytest.mark.parametrize("command", [(), ("",), ("ssh", "")])
def test_empty_words_are_refused(command: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match=r"toolchain\.command"):
        Toolchain(command=command)


def test_a_refusal_carries_what_tensorrt_said(ask: Callable[..., Any]) -> None:
    result = {
        "kind": "builder",
        "message": "TensorRT built nothing",
        "hint": "raise target.workspace_mib",
        "log": [
            "[info] first",
            "[error] TensorRT built nothing",
            "[error] Could not find any implementation",
        ],
        "where": "target.device",
    }
    for kind in ("local", "ssh"):
        with pytest.raises(ToolchainError) as caught:
            ask(kind, {"op": "refuse", "result": result})
        error = caught.value
        assert error.kind == "builder"
        assert error.hint == "raise target.workspace_mib"
        assert error.message.count("TensorRT built nothing") == 1
        assert "Could not find any implementation" in error.message
        assert error.log[0] == "[info] first"
        assert error.where == "target.device"


def test_want_of_memory_is_told_as_the_executor_expects(ask: Callable[..., Any]) -> None:
    with pytest.raises(ToolchainError) as caught:
        ask("local", {"op": "refuse", "result": {"kind": "memory", "message": "full"}})
    assert isinstance(caught.value.__cause__, MemoryError)


@pytest.mark.parametrize("kind", ["local", "ssh", "docker"])
@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("SIGSEGV", "crashed in native code (SIGSEGV, in far_worker.py line"),
        ("SIGKILL", "killed, by somebody or by the kernel for want of memory (SIGKILL)"),
        ("SIGABRT", "aborted in native code (SIGABRT"),
        ("SIGTERM", "ended by a signal (SIGTERM)"),
    ],
)
def test_signals_are_told_apart(kind: str, name: str, says: str, ask: Callable[..., Any]) -> None:
    with pytest.raises(WorkerLostError) as caught:
        ask(kind, {"op": "signal", "name": name})
    assert says in caught.value.message
    assert caught.value.hint


def test_a_worker_that_raises_or_leaves_nothing(ask: Callable[..., Any]) -> None:
    for kind in ("local", "docker"):
        with pytest.raises(ToolchainError, match=r"with code 1 .*RuntimeError: of ours") as caught:
            ask(kind, {"op": "raise", "text": "of ours"})
        assert caught.value.kind == "bug"
        with pytest.raises(ToolchainError, match="ended with code 3 and left no result"):
            ask(kind, {"op": "exit", "code": 3})


@pytest.mark.parametrize(
    ("command", "says", "advice"),
    [
        (("no-such-program-at-all",), "no program 'no-such-program-at-all'", "full path"),
        ((str(DATA),), "may not be executed", "chmod"),
        (("sh", "-c", "exit 127"), "not found there", "full path"),
        (("sh", "-c", "exit 126"), "cannot be executed", "Python"),
        (("sh", "-c", "echo no GPU today >&2; exit 4"), "code 4 before .*: no GPU", "3.8"),
        (("sh", "-c", f'exec {PYTHON} "$@" </dev/null', "sh"), "nothing on its", "hand its"),
        (("true",), "code 0 before Python began", "Python interpreter"),
        (("ssh", "host", "no-such-python"), "not found there", "full path"),
        (("docker", "run", "image", PYTHON), "nothing on its standard input", "docker run -i"),
        (("docker", "run", "-i", "image", "no-such-python"), "not found there", "full path"),
    ],
)
def test_commands_that_lead_to_no_python(
    command: tuple[str, ...], says: str, advice: str, toolchains: Toolchains, tmp_path: Path
) -> None:
    with pytest.raises(ToolchainError, match=says) as caught:
        call(Toolchain(name="trt86", command=command), {"op": "none"}, tmp_path, worker=FAR)
    assert caught.value.kind == "command"
    assert caught.value.where == "toolchain.command"
    assert advice in caught.value.hint
    assert "trt86" in caught.value.message


@pytest.mark.parametrize(
    ("kind", "code", "said", "says"),
    [
        ("ssh", 255, "ssh: Could not resolve hostname h: Name or service not known", "not known"),
        ("ssh", 255, "u@h: Permission denied (publickey,password).", "refuses us"),
        ("ssh", 255, "Host key verification failed.", "not trusted"),
        ("ssh", 255, "ssh: connect to host h port 22: Connection refused", "cannot be reached"),
        ("ssh", 255, "something new", "cannot connect: something new"),
        ("docker", 1, "Cannot connect to the Docker daemon at unix:///x.sock.", "not running"),
        ("docker", 125, "docker: permission denied while trying to connect to the Docker daemon "
         "socket at unix:///var/run/docker.sock", "may not use"),
        ("docker", 125, 'docker: could not select device driver "" with capabilities: [[gpu]].',
         "cannot get a GPU"),
        ("docker", 125, "docker: Error response from daemon: pull access denied for x",
         "cannot be pulled"),
        ("docker", 1, "the input device is not a TTY", "terminal"),
        ("docker", 127, 'exec: "python": executable file not found in $PATH', "no such program"),
        ("docker", 125, "something new", "cannot run the container: something new"),
    ],
)  # fmt: skip
def test_ssh_and_docker_failures(
    kind: str,
    code: int,
    said: str,
    says: str,
    ask: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FAR_CODE", str(code))
    monkeypatch.setenv("FAR_SAYS", said)
    with pytest.raises(ToolchainError) as caught:
        ask(kind, {"op": "none"})
    assert says in caught.value.message
    assert caught.value.hint


def test_a_lost_connection_is_no_refusal(tmp_path: Path, toolchains: Toolchains) -> None:
    cut = tmp_path / "bin"
    cut.mkdir()
    script = cut / "ssh"  # dies in the middle, as ssh does when the network goes
    script.write_text(
        f"#!{PYTHON}\nimport subprocess, sys\n"
        'p = subprocess.Popen(["sh", "-c", " ".join(sys.argv[4:])], stdout=subprocess.PIPE)\n'
        'while b"started" not in (line := p.stdout.readline()):\n    pass\n'
        "sys.stdout.buffer.write(line)\nsys.stdout.flush()\n"
        'p.kill()\nsys.stderr.write("client_loop: Broken pipe\\n")\nsys.exit(255)\n'
    )
    script.chmod(0o755)
    toolchain = Toolchain(name="far", command=(str(script), "host", PYTHON))
    directory = tmp_path / "request"
    directory.mkdir()
    with pytest.raises(WorkerLostError, match="connection to toolchain far was lost: client_loop"):
        call(toolchain, {"op": "sleep", "seconds": 60}, directory, worker=FAR)


@pytest.mark.parametrize("kind", ["local", "ssh", "docker"])
def test_the_time_limit_ends_the_far_side(
    kind: str, ask: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = tmp_path / "pid"
    request = {"op": "sleep", "seconds": 600, "begun": str(begun)}
    with (
        nothing_left(tmp_path, monkeypatch),
        pytest.raises(ToolchainError, match="took longer than 2 s") as caught,
    ):
        ask(kind, request, watch=Watch(timeout_s=2.0))
    assert caught.value.kind == "timeout"
    if begun.exists():  # on a busy machine it may not have come so far
        assert not _alive(int(begun.read_text()))


@pytest.mark.parametrize("kind", ["local", "ssh"])
def test_an_interrupted_caller_ends_the_far_side(
    kind: str, ask: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = tmp_path / "pid"

    def interrupt() -> None:
        _wait_for(begun)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with nothing_left(tmp_path, monkeypatch), pytest.raises(KeyboardInterrupt):
        ask(kind, {"op": "sleep", "seconds": 600, "begun": str(begun)})
    thread.join()
    assert not _alive(int(begun.read_text()))


@pytest.mark.parametrize("kind", ["local", "ssh", "docker"])
def test_a_killed_parent_ends_the_work_before_it_frees_the_key(
    kind: str, toolchains: Toolchains, tmp_path: Path
) -> None:
    begun, key, scratch = tmp_path / "pid", tmp_path / "key.lock", tmp_path / "scratch"
    scratch.mkdir()
    directory = tmp_path / "request"
    directory.mkdir()
    code = (
        "import sys; from pathlib import Path\n"
        "from orchestrator.backends.tensorrt.toolchain import *\n"
        "from orchestrator.store.locks import take\n"
        f"lock = take(Path({str(key)!r}))\n"
        f"toolchain = Toolchain(command={toolchains[kind].command!r})\n"
        f"request = {{'op': 'sleep', 'seconds': 600, 'begun': {str(begun)!r}}}\n"
        f"call(toolchain, request, Path({str(directory)!r}), worker=Path({str(FAR)!r}),\n"
        "     watch=Watch(locks=(lock.descriptor,)))\n"
    )
    parent = subprocess.Popen([PYTHON, "-c", code], env={**os.environ, "TMPDIR": str(scratch)})
    try:
        _wait_for(begun)
        assert bool(list(scratch.iterdir())) == toolchains[kind].pipe
        assert try_lock(key) is None
    finally:
        parent.kill()
        parent.wait()
    take(key).release()  # waits until every holder has gone
    if kind == "ssh":  # the real ssh drops descriptors: the far side ends soon, not before
        _wait_until_dead(int(begun.read_text()))
    assert not _alive(int(begun.read_text()))
    _wait_until_empty(scratch)  # removed by a process that nobody is the parent of now


@pytest.mark.parametrize("kind", ["ssh", "docker"])
@pytest.mark.parametrize("name", ["SIGKILL", "SIGSEGV"])
def test_a_worker_that_dies_leaves_no_files(
    kind: str,
    name: str,
    ask: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with nothing_left(tmp_path, monkeypatch), pytest.raises(WorkerLostError):
        ask(kind, {"op": "signal", "name": name})


def test_the_toolchain_holds_the_locks(tmp_path: Path, toolchains: Toolchains) -> None:
    begun, key = tmp_path / "pid", tmp_path / "key.lock"
    lock = take(key)
    directory = tmp_path / "request"
    directory.mkdir()
    request = {"op": "sleep", "seconds": 600, "begun": str(begun)}
    held: list[bool] = []

    def release() -> None:
        _wait_for(begun)
        lock.release()
        held.append(try_lock(key) is None)
        os.kill(int(begun.read_text()), signal.SIGKILL)

    thread = threading.Thread(target=release)
    thread.start()
    with pytest.raises(WorkerLostError, match="SIGKILL"):
        call(
            toolchains["local"],
            request,
            directory,
            watch=Watch(locks=(lock.descriptor,)),
            worker=FAR,
        )
    thread.join()
    assert held == [True]
    again = try_lock(key)
    assert again is not None
    again.release()


@pytest.mark.parametrize("kind", ["local", "pipe"])
def test_a_missing_file_of_ours_is_our_error(kind: str, ask: Callable[..., Any]) -> None:
    with pytest.raises(FileNotFoundError, match="no-such-model"):
        ask(kind, {"op": "none"}, files={"model.onnx": Path("no-such-model")})


def test_a_callback_that_raises_ends_the_far_side(ask: Callable[..., Any]) -> None:
    def fail(text: str) -> None:
        raise ValueError(text)

    with pytest.raises(ValueError, match="half way"):
        ask("local", {"op": "copy", "from": ".", "to": "out"}, watch=Watch(log=fail))


@pytest.mark.parametrize("more", [{"escape": True}, {"cut": 8000}])
def test_bad_archives_are_refused(
    more: dict[str, Any], ask: Callable[..., Any], tmp_path: Path
) -> None:
    with pytest.raises(OrchestrateError) as caught:
        ask("pipe", {"op": "none", **more})
    assert "toolchain" in caught.value.message
    assert not (tmp_path / "escaped").exists()


def test_names_stay_inside() -> None:
    for name in ("/etc/passwd", "../x", "a/../../x", ""):
        with pytest.raises(ValueError, match="leads out"):
            transport.relative(name)
    assert transport.relative("./a//b") == "a/b"


def test_a_received_link_is_refused(tmp_path: Path) -> None:
    archive = tmp_path / "a.tar"
    with tarfile.open(archive, "w") as tar:
        link = tarfile.TarInfo("plan")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    into = tmp_path / "into"
    into.mkdir()
    with pytest.raises(StageError, match="no plain file"):
        transport.receive(archive, into)
    assert not list(into.iterdir())


def test_events_are_found_however_the_bytes_are_cut(tmp_path: Path) -> None:
    stream = (
        b'hello\n{"event": "log", "text": "\xc3\xa9"}\n{"no": "event"}\n{broken\n\n'
        b'{"event": "files", "bytes": 7}\n\n{"x"}\n{"event": "ended", "code": 0}\nrest'
    )
    expected = [
        "hello",
        {"event": "log", "text": "é"},
        '{"no": "event"}',
        "{broken",
        {"event": "ended", "code": 0},
    ]
    for size in (1, 2, 3, 7, 50, len(stream)):
        archive = tmp_path / str(size)
        lines = transport.Lines(archive)
        found = []
        for start in range(0, len(stream), size):
            found += list(lines.feed(stream[start : start + size]))
        assert found == expected
        assert lines.complete
        assert archive.read_bytes() == b'\n{"x"}\n'
        assert lines.finish() == "rest"


def test_the_planner_can_import_it() -> None:
    code = (
        "import sys, orchestrator.backends.tensorrt.probe\n"
        "print(sorted({'numpy', 'torch', 'onnx', 'tensorrt'} & set(sys.modules)))"
    )
    ran = subprocess.run([PYTHON, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


@pytest.mark.parametrize("kind", ["directory", "pipe", "ssh", "docker"])
@pytest.mark.parametrize("op", ["probe", "build"])
def test_the_real_worker_where_there_is_no_tensorrt(
    kind: str, op: str, toolchains: Toolchains, tmp_path: Path
) -> None:
    isolated = (PYTHON, "-I", "-S")  # no site-packages: certainly without TensorRT
    toolchain = {
        "directory": Toolchain(name="bare", command=isolated),
        "pipe": Toolchain(name="bare", command=isolated, transport="pipe"),
        "ssh": Toolchain(name="bare", command=("ssh", "host", *isolated)),
        "docker": Toolchain(name="bare", command=("docker", "run", "-i", "image", *isolated)),
    }[kind]
    model = tmp_path / "model.onnx"
    model.write_bytes(b"\x08\x08")
    directory = tmp_path / "request"
    directory.mkdir()
    build = {"onnx": "model.onnx", "plan": "engine.plan", "precision": {}, "expect": {}}
    request = {"op": op, **(build if op == "build" else {})}
    with pytest.raises(ToolchainError) as caught:
        call(toolchain, request, directory, files={"model.onnx": model})
    assert caught.value.kind == "missing", caught.value.render()
    assert "toolchain bare" in caught.value.message
    assert PYTHON in caught.value.message
    assert caught.value.hint


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return stat[0] != "Z"  # a zombie has ended; who adopted it has not looked yet


@contextlib.contextmanager
def nothing_left(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Give what runs meanwhile a directory for its temporary files, which is empty again then."""
    scratch = root / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    yield
    assert list(scratch.iterdir()) == []


def _wait_until_empty(folder: Path) -> None:
    deadline = time.monotonic() + 60
    while list(folder.iterdir()):
        assert time.monotonic() < deadline, f"{folder} still holds {list(folder.iterdir())}"
        time.sleep(0.02)


def _wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < deadline, f"{path} never came"
        time.sleep(0.02)


def _wait_until_dead(pid: int) -> None:
    deadline = time.monotonic() + 60
    while _alive(pid):
        assert time.monotonic() < deadline, f"{pid} lives on"
        time.sleep(0.02)
