"""Why a toolchain left no result, in the user's terms."""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from orchestrator.backends.tensorrt.transport import NO_STDIN
from orchestrator.errors import OrchestrateError, StageError, WorkerLostError

WHERE: Final = "toolchain.command"
_AGAIN: Final = "run the same command again: what was finished is kept"
_CONTAINERS: Final = ("docker", "podman")

_SIGNALS: Final = {
    "SIGKILL": (
        "was killed, by somebody or by the kernel for want of memory",
        f"free memory or set executor.workers=1, then {_AGAIN}",
    ),
    "SIGSEGV": ("crashed in native code", ""),
    "SIGBUS": ("crashed in native code", ""),
    "SIGABRT": ("aborted in native code", ""),
    "SIGFPE": ("crashed in native code", ""),
    "SIGILL": ("met an instruction that the processor does not have", ""),
}
_CRASHED: Final = (
    "often a driver too old for the toolchain's CUDA, or a plugin library of another TensorRT: "
    "look at nvidia-smi there, and at what target.plugins were built for; the action's log has the "
    "last lines"
)
# What ssh, docker and podman say (stderr), and what to do about it.
_SAID: Final[Sequence[tuple[str, str, str]]] = (
    (
        r"cannot connect to the docker daemon|daemon is not running|no such file.*docker\.sock",
        "the Docker daemon is not running, or not reachable",
        "start it (systemctl start docker), or set DOCKER_HOST; 'docker info' must work",
    ),
    (
        r"permission denied.*(docker daemon|docker\.sock|docker api)",
        "you may not use the Docker daemon",
        "join the group docker, or use rootless Docker or podman",
    ),
    (
        r"could not select device driver|nvidia-container-cli|unresolvable cdi devices",
        "the container cannot get a GPU",
        "install the NVIDIA Container Toolkit and restart the Docker daemon; "
        "'docker run --rm --gpus all IMAGE nvidia-smi' must work",
    ),
    (
        r"unable to find image|pull access denied|manifest unknown|no such image|short-name",
        "the image is not here and cannot be pulled",
        "pull it by hand first (docker pull IMAGE), or mend its name in toolchain.command",
    ),
    (
        r"the input device is not a tty",
        "a container's terminal was asked for, and there is none",
        "write docker run -i, without -t",
    ),
    (r"no such container", "there is no such container", "start it, or mend toolchain.command"),
    (
        r"executable file not found|oci runtime.*no such file",
        "the container has no such program",
        "name its Python as the last word of toolchain.command, e.g. python3",
    ),
    (
        r"could not resolve hostname|name or service not known",
        "the ssh host is not known",
        "mend its name in toolchain.command or in ~/.ssh/config",
    ),
    (
        r"host key verification failed|remote host identification has changed",
        "the ssh host's key is not trusted",
        "connect once by hand ('ssh HOST true') and check its key",
    ),
    (
        r"permission denied \(|too many authentication failures",
        "the ssh host refuses us",
        "no password can be typed here: set up a key; 'ssh -o BatchMode=yes HOST true' must work",
    ),
    (
        r"connection refused|connection timed out|no route to host|network is unreachable",
        "the ssh host cannot be reached",
        "check that it is up, and its port; 'ssh HOST true' must work",
    ),
)


class ToolchainError(StageError):
    """The toolchain's worker refused, in its own words.

    Attributes:
        kind: ``refused``, ``mismatch``, ``memory``, ``device``, ``disk``, ``builder``,
            ``missing``, ``bug`` (the worker's result), ``timeout`` or ``command`` (no worker ran).
        log: The last lines that TensorRT logged before it.
        result: The worker's whole result (``seen``, ``errors`` of the ONNX parser, …).
    """

    def __init__(
        self,
        message: str,
        *,
        kind: str,
        where: str = "",
        hint: str = "",
        log: Sequence[str] = (),
        result: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message, where=where, hint=hint)
        self.kind = kind
        self.log = tuple(log)
        self.result = dict(result or {})


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a toolchain ended without a result.

    Attributes:
        name: The toolchain's name.
        program: The command's first word that is a program, without its directory.
        code: Exit code of the local process; negative for a signal.
        began: Python began there.
        worker_code: Exit code of the worker as the far side tells it; None when it did not.
        said: The last lines on stderr, or else on stdout.
    """

    name: str
    program: str
    code: int
    began: bool
    worker_code: int | None
    said: Sequence[str]


def explain(ended: Ended) -> OrchestrateError:
    """Return the error for a toolchain that left no result.

    Returns:
        A WorkerLostError where the same command may succeed when run again (killed, crashed,
        connection lost), else a ToolchainError of kind ``command`` or ``bug``.
    """
    if ended.worker_code is not None:
        return _worker(ended, ended.worker_code)
    if ended.began:
        return _cut_off(ended)
    return _never_began(ended)


def not_started(name: str, program: str, exc: OSError) -> ToolchainError:
    """Return the error for a command that the operating system would not start."""
    if isinstance(exc, FileNotFoundError):
        reason, hint = f"there is no program '{program}'", "install it, or give its full path"
    elif isinstance(exc, PermissionError):
        reason = f"'{program}' may not be executed"
        hint = "chmod +x, or name the Python interpreter itself"
    else:
        reason, hint = f"'{program}' cannot be started: {exc.strerror or exc}", ""
    return ToolchainError(f"toolchain {name}: {reason}", kind="command", where=WHERE, hint=hint)


def timed_out(name: str, seconds: float) -> ToolchainError:
    """Return the error for a toolchain that was ended after *seconds*."""
    return ToolchainError(
        f"toolchain {name} took longer than {seconds:g} s and was ended",
        kind="timeout",
        where=WHERE,
        hint="raise the time limit, or look why it waits: the log has its last lines",
    )


def _worker(ended: Ended, code: int) -> OrchestrateError:
    if code < 0:
        return _signalled(f"the worker of toolchain {ended.name}", -code, ended.said)
    return ToolchainError(
        f"the worker of toolchain {ended.name} ended with code {code} and left no result"
        f"{_last(ended.said)}",
        kind="bug",
        where=WHERE,
        hint="the action's log has all that it said",
    )


def _cut_off(ended: Ended) -> OrchestrateError:
    if ended.program == "ssh" and ended.code == 255:
        return WorkerLostError(
            f"the connection to toolchain {ended.name} was lost{_last(ended.said)}",
            where=WHERE,
            hint=f"{_AGAIN}; ServerAliveInterval in ~/.ssh/config notices a dead connection sooner",
        )
    number = _signal_of(ended.code)
    if number:
        return _signalled(f"toolchain {ended.name}", number, ended.said)
    return WorkerLostError(
        f"toolchain {ended.name} ended with code {ended.code} in the middle of its work"
        f"{_last(ended.said)}",
        where=WHERE,
        hint=_AGAIN,
    )


def _never_began(ended: Ended) -> OrchestrateError:
    number = _signal_of(ended.code)
    if number:
        return _signalled(f"toolchain {ended.name}", number, ended.said)
    reason, hint = _reason(ended)
    return ToolchainError(
        f"toolchain {ended.name}: {reason}{_last(ended.said)}",
        kind="command",
        where=WHERE,
        hint=hint,
    )


def _reason(ended: Ended) -> tuple[str, str]:
    text = "\n".join(ended.said)
    if ended.program in (*_CONTAINERS, "ssh"):
        for pattern, reason, hint in _SAID:
            if re.search(pattern, text, re.IGNORECASE):
                return reason, hint
    if ended.code == NO_STDIN:
        hint = "the command must hand its standard input on"
        if ended.program in _CONTAINERS:
            hint = f"write {ended.program} run -i, without -t"
        return "its Python got nothing on its standard input", hint
    if ended.program == "ssh" and ended.code == 255:
        return "ssh cannot connect", "'ssh -o BatchMode=yes HOST true' must work"
    if ended.program in _CONTAINERS and ended.code == 125:
        return f"{ended.program} cannot run the container", "run the command by hand to see why"
    if ended.code == 127:
        return "the command was not found there", "give the full path of its Python"
    if ended.code == 126:
        return "the program there cannot be executed", "name a Python interpreter"
    return (
        f"the command ended with code {ended.code} before Python began",
        "its last word must be a Python interpreter >= 3.8, which is given '-c PROGRAM'",
    )


def _signalled(who: str, number: int, said: Sequence[str]) -> WorkerLostError:
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    cause, hint = _SIGNALS.get(name, ("was ended by a signal", _AGAIN))
    place = _place(said)
    return WorkerLostError(
        f"{who} {cause} ({name}{f', in {place}' if place else ''})",
        where=WHERE,
        hint=hint or _CRASHED,
    )


def _signal_of(code: int) -> int:
    """Return the signal that an exit code stands for: -N, or a shell's and docker's 128 + N."""
    if code < 0:
        return -code
    known = {int(number) for number in signal.Signals}
    return code - 128 if code - 128 in known else 0


def _place(said: Sequence[str]) -> str:
    """Return the innermost frame that faulthandler wrote, e.g. ``worker.py line 7, probe``."""
    for line in said:
        found = re.match(r'\s*File "([^"]*)", line (\d+) in (\S+)', line)
        if found:
            file, number, function = found.groups()
            return f"{file.rsplit('/', 1)[-1]} line {number}, {function}"
    return ""


def _last(said: Sequence[str]) -> str:
    lines = [line.strip() for line in said if line.strip()]
    return f": {lines[-1][:500]}" if lines else ""
