"""Running the worker in the interpreter that has TensorRT: here, in another Python, docker or ssh.

A toolchain is a command that leads to a Python; one process of it serves one request.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

from orchestrator.backends.tensorrt.failures import WHERE, ToolchainError
from orchestrator.backends.tensorrt.process import Process, Watch, Write
from orchestrator.backends.tensorrt.transport import (
    REQUEST,
    RESULT,
    arguments,
    head,
    place,
    send,
)
from orchestrator.errors import ConfigError

Json = dict[str, Any]
Transport = Literal["auto", "directory", "pipe"]

WORKER: Final = Path(__file__).with_name("worker.py")
_CONTAINERS: Final = ("docker", "podman")
_ENV_TAKES_WORD: Final = ("-u", "--unset", "-C", "--chdir")
_SHOWN_LINES: Final = 8
_SEVERITY: Final = re.compile(r"^\[\w+\] ")  # as the worker writes it before each line


@dataclass(frozen=True, kw_only=True)
class Toolchain:
    """How to reach an interpreter that has TensorRT.

    Attributes:
        name: As messages call it.
        command: Its words; the last is a Python interpreter >= 3.8. None: this interpreter.
        transport: ``directory``: both sides see the request's directory under one path; ``pipe``:
            files travel through stdin and stdout; ``auto``: pipe for ssh, docker and podman.
        installation: For ssh and docker: any text that names what is installed there (an image's
            digest); a new one forgets what was probed.
        max_age_s: For ssh and docker: a probe older than this is repeated.
        device: CUDA device, as the toolchain's process counts them.
    """

    name: str = "local"
    command: tuple[str, ...] | None = None
    transport: Transport = "auto"
    installation: str = ""
    max_age_s: float = 24 * 3600.0
    device: int = 0

    def __post_init__(self) -> None:
        if self.command is not None and not (self.command and all(self.command)):
            raise ConfigError(
                "the command has no words, or an empty one",
                where=WHERE,
                hint="a list such as [ssh, HOST, python3], or null for this interpreter",
            )

    @property
    def words(self) -> tuple[str, ...]:
        """The command's words, this interpreter for None."""
        return (sys.executable,) if self.command is None else self.command

    @property
    def program_at(self) -> int:
        """Index of the first word that is a program: past ``env`` and its settings."""
        words = self.words
        at = 0
        if Path(words[0]).name == "env":
            at = 1
            while at < len(words) - 1 and ("=" in words[at] or words[at].startswith("-")):
                at += 2 if words[at] in _ENV_TAKES_WORD else 1
        return min(at, len(words) - 1)

    @property
    def program(self) -> str:
        """The name of the program, without its directory: ``ssh``, ``docker``, ``python3.10``."""
        return Path(self.words[self.program_at]).name

    @property
    def pipe(self) -> bool:
        """Whether files travel through the pipe."""
        return self.transport == "pipe" or (
            self.transport == "auto" and self.program in ("ssh", *_CONTAINERS)
        )

    @property
    def here(self) -> bool:
        """Whether it is an interpreter of this machine, whose files can be looked at."""
        return not self.pipe and self.program not in ("ssh", *_CONTAINERS)

    def as_json(self) -> Json:
        """Return it for a request, from which :meth:`from_json` makes it again."""
        return {**asdict(self), "command": None if self.command is None else list(self.command)}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Toolchain:
        """Return the toolchain that :meth:`as_json` described; further fields are left out."""
        fields = {name: found[name] for name in cls.__dataclass_fields__}
        command = fields.pop("command")
        return cls(**fields, command=None if command is None else tuple(command))

    def line(self) -> list[str]:
        """Return the whole command line that is started."""
        words, at = list(self.words), self.program_at
        ssh = self.program == "ssh"
        if ssh and not any("batchmode" in word.lower() for word in words):
            words[at + 1 : at + 1] = ["-o", "BatchMode=yes"]  # nobody is there to type a password
        return [*words, *arguments(remote_shell=ssh)]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A worker's result.

    Attributes:
        values: The operation's values.
        seen: The identity of TensorRT, CUDA and device that the worker saw.
        interpreter: ``executable``, ``python`` and ``path`` (``sys.path``) of the Python there.
    """

    values: Json
    seen: Json
    interpreter: Json


def call(
    toolchain: Toolchain,
    request: Mapping[str, Any],
    directory: Path,
    *,
    files: Mapping[str, Path] | None = None,
    watch: Watch | None = None,
    worker: Path = WORKER,
) -> Answer:
    """Let *toolchain* do what *request* asks; what it writes is then in *directory*.

    Args:
        toolchain: The interpreter that has TensorRT.
        request: A JSON object; every path in it is relative to *directory*. The device is added.
        directory: An existing, empty, writable directory.
        files: What the request reads: relative name → file or directory of this machine, linked
            there, or sent.
        watch: Callbacks, locks, time limit.
        worker: The worker's source file.

    Raises:
        ToolchainError: the worker refuses (``kind`` says why), the command does not lead to a
            Python, or the time is up.
        WorkerLostError: it was killed, crashed, or the connection broke; the same request may
            succeed when repeated.
        OSError: *directory* or *files* cannot be read or written.
    """
    watch = watch or Watch()
    directory = directory.absolute()
    (directory / RESULT).unlink(missing_ok=True)
    whole = {"device": toolchain.device, **request}
    (directory / REQUEST).write_text(json.dumps(whole, allow_nan=False), encoding="utf-8")
    files = dict(files or {})
    if not toolchain.pipe:
        place(directory, files, link=toolchain.here)
    where = "-" if toolchain.pipe else str(directory)
    first = head(worker, [where], files=toolchain.pipe)

    def feed(write: Write) -> None:
        write(first)
        if toolchain.pipe:
            send(write, directory, files)

    process = Process(
        name=toolchain.name, program=toolchain.program, directory=directory, watch=watch
    )
    try:
        process.start(toolchain.line(), feed)
        process.listen()
    finally:
        process.stop()
    result = process.result()
    if result.get("ok") is not True:
        raise _refusal(toolchain.name, result)
    return Answer(
        values=result.get("values") or {},
        seen=result.get("seen") or {},
        interpreter=process.interpreter or {},
    )


def _refusal(name: str, result: Json) -> ToolchainError:
    kind, message = (
        str(result.get("kind", "bug")),
        str(result.get("message", "no reason given")),
    )
    log = [str(line).rstrip() for line in result.get("log") or []]
    said = [line for line in log if line and _SEVERITY.sub("", line) not in message]
    error = ToolchainError(
        "\n    ".join([f"toolchain {name}: {message}", *said[-_SHOWN_LINES:]]),
        kind=kind,
        where=str(result.get("where") or ""),
        hint=str(result.get("hint") or ""),
        log=log,
        result=result,
    )
    if kind == "memory":
        error.__cause__ = MemoryError(message)  # as the executor tells want of memory
    return error


__all__ = ["WORKER", "Answer", "Toolchain", "Transport", "Watch", "call"]
