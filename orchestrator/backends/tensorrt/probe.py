"""What a toolchain has — TensorRT, CUDA, device — asked once and remembered in the index.

Remembered until the driver, the GPUs, CUDA_VISIBLE_DEVICES, the worker's source or the toolchain's
installation change. Of an interpreter here the installation is looked at without running it: the
interpreter's file, and the packages that decide what it imports in the directories that it named
when it was probed. Of ssh and docker nothing can be seen from here: the configuration names the
installation, and a probe has a maximum age. A failed probe is not remembered.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from orchestrator.backends.tensorrt.failures import ToolchainError
from orchestrator.backends.tensorrt.toolchain import WORKER, Toolchain, Watch, call
from orchestrator.errors import PlanError, StageError, WorkerLostError
from orchestrator.store import digests
from orchestrator.store.index import Index

Json = dict[str, Any]

_SCHEMA: Final = 1
_TIMEOUT_S: Final = 600.0  # docker may pull an image, a cold network disk may hold TensorRT
# What decides which libraries a local interpreter finds, which devices it sees, how TensorRT
# computes there, and on which machine a container runs.
_VARIABLES: Final = (
    "CONTAINER_HOST",
    "CUDA_VISIBLE_DEVICES",
    "CUDA_DEVICE_ORDER",
    "DOCKER_CONTEXT",
    "DOCKER_HOST",
    "LD_LIBRARY_PATH",
    "LD_PRELOAD",
    "NVIDIA_TF32_OVERRIDE",
    "PATH",
    "PYTHONHOME",
    "PYTHONPATH",
)
_PACKAGES: Final = re.compile(
    r"(tensorrt|cuda_(python|bindings)|nvidia_cuda_runtime)[\w.]*-.*\.(dist|egg)-info"
)
_NOT_PINNED: Final = ("cuda_driver", "python")
# The memory is pinned in GiB: another driver may keep some more megabytes.
_NOT_PINNED_OF_DEVICE: Final = ("uuid", "memory_bytes")


@dataclass(frozen=True, kw_only=True)
class Probed:
    """What a toolchain said of itself.

    Attributes:
        seen: Its identity: ``tensorrt``, ``cuda_runtime``, ``device``, ….
        capabilities: What its TensorRT can do.
        devices: UUIDs of the GPUs that it sees and that are equal in all that keys hold, the one
            that ``target.device`` names first.
    """

    seen: Json
    capabilities: Json
    devices: Sequence[str] = ()

    @property
    def expectation(self) -> Json:
        """The identity that keys hold and that the worker checks before it builds.

        Without what does not decide what is built: driver, Python, and which of several equal
        devices it is.
        """
        pinned = {name: value for name, value in self.seen.items() if name not in _NOT_PINNED}
        device = pinned.get("device")
        if isinstance(device, Mapping):
            pinned["device"] = {
                name: value for name, value in device.items() if name not in _NOT_PINNED_OF_DEVICE
            }
        return pinned


def probe(
    toolchain: Toolchain,
    index: Index | None,
    *,
    fresh: bool = False,
    watch: Watch | None = None,
    worker: Path = WORKER,
    nvidia: Path = Path("/proc/driver/nvidia"),
    now: Callable[[], float] = time.time,
) -> Probed:
    """Return what *toolchain* has, remembered or asked now.

    Args:
        toolchain: The toolchain.
        index: Where probes are remembered; None: nowhere.
        fresh: Ask although an answer is remembered.
        watch: As for :func:`call`; without one, at most 10 minutes.
        worker: The worker's source file.
        nvidia: Where the kernel's driver tells its version and GPUs.
        now: The clock, in seconds since 1970.

    Raises:
        PlanError: it cannot be reached, has no TensorRT, or no device; with what to do.
    """
    key = _key(toolchain, worker, index)
    if index is not None and not fresh:
        remembered = _recall(index.get(key), toolchain, nvidia, now())
        if remembered is not None:
            return remembered
    before = _stamp(toolchain, (), nvidia)
    with tempfile.TemporaryDirectory(prefix="orchestrate-probe-") as directory:
        try:
            answer = call(
                toolchain,
                {"op": "probe"},
                Path(directory),
                watch=watch or Watch(timeout_s=_TIMEOUT_S),
                worker=worker,
            )
        except (StageError, WorkerLostError) as exc:
            raise PlanError(exc.message, where=exc.where, hint=exc.hint) from exc
    found = Probed(
        seen=answer.seen,
        capabilities=answer.values["capabilities"],
        devices=answer.values["devices"],
    )
    if index is not None and _stamp(toolchain, (), nvidia) == before:
        path = _strings([answer.interpreter.get("executable"), *_path(answer.interpreter)])
        stored = {
            "at": now(),
            "path": path,
            "stamp": _stamp(toolchain, path, nvidia),
            "seen": found.seen,
            "capabilities": found.capabilities,
            "devices": found.devices,
        }
        index.set(key, json.dumps(stored))
    return found


def gpu_of(seen: Mapping[str, Any]) -> str:
    """Return what tells the GPU of an identity from all others: its UUID, or else its name."""
    device = seen.get("device") or {}
    return str(device.get("uuid") or device.get("name") or "gpu")


def forget(toolchain: Toolchain, index: Index, *, worker: Path = WORKER) -> None:
    """Drop what is remembered of *toolchain*: its worker saw something else (kind ``mismatch``)."""
    index.set(_key(toolchain, worker, index), "")


def is_mismatch(exc: BaseException) -> bool:
    """Return whether *exc* says that the worker saw another identity than was expected."""
    return isinstance(exc, ToolchainError) and exc.kind == "mismatch"


def _key(toolchain: Toolchain, worker: Path, index: Index | None) -> str:
    try:
        source = "" if index is None else index.source(worker)
    except OSError:
        source = ""  # the call itself will say that the worker's file is missing
    what = {
        "schema": _SCHEMA,
        "words": list(toolchain.words),
        "pipe": toolchain.pipe,
        "device": toolchain.device,
        "worker": source,
        "environment": {name: os.environ.get(name) for name in _VARIABLES},
        "cwd": os.getcwd(),  # words may be relative  # noqa: PTH109  # a text
    }
    return f"tensorrt-probe:{digests.of_json('tensorrt-probe', what)}"


def _recall(text: str | None, toolchain: Toolchain, nvidia: Path, now: float) -> Probed | None:
    if not text:
        return None
    try:
        stored = json.loads(text)
        age = now - float(stored["at"])
        if not toolchain.here and not 0 <= age <= toolchain.max_age_s:
            return None
        if _stamp(toolchain, _strings(stored["path"]), nvidia) != stored["stamp"]:
            return None
        return Probed(
            seen=dict(stored["seen"]),
            capabilities=dict(stored["capabilities"]),
            devices=_strings(stored["devices"]),
        )
    except (ValueError, KeyError, TypeError):
        return None


def _stamp(toolchain: Toolchain, path: Sequence[str], nvidia: Path) -> str:
    """Return what changes when the answer may: *path* is the interpreter, then its search path.

    A digest: words of a command may hold secrets, and it is stored.
    """
    found = [f"installation {toolchain.installation}", *_driver(nvidia)]
    if toolchain.here:
        words = toolchain.words[toolchain.program_at :]
        program = shutil.which(words[0])
        files = [Path(program)] if program else []
        files += [Path(word) for word in words[1:] if "/" in word]  # a script that it is given
        files += [Path(name) for name in path[:1]]
        found += [_stat(file) for file in files]
        for name in path[1:]:
            found += _packages(Path(name))
    return digests.of_json("tensorrt-probe-stamp", found)


def _driver(nvidia: Path) -> Iterator[str]:
    """Yield the driver's version and the GPUs as the kernel knows them, or else this boot."""
    version = _read(nvidia / "version")
    if not version:
        yield f"boot {_read(Path('/proc/sys/kernel/random/boot_id'))}"
        return
    yield f"driver {version}"
    try:
        gpus = sorted((nvidia / "gpus").iterdir())
    except OSError:
        gpus = []
    for gpu in gpus:
        for line in _read(gpu / "information").splitlines():
            name, _, value = line.partition(":")
            if name.strip() in ("Model", "GPU UUID"):
                yield f"{gpu.name} {name.strip()} {value.strip()}"


def _packages(folder: Path) -> Iterator[str]:
    try:
        names = sorted(entry.name for entry in os.scandir(folder))
    except OSError:  # no such directory, or a zip file
        yield _stat(folder)
        return
    for name in names:
        if _PACKAGES.fullmatch(name):
            record = folder / name / "RECORD"
            yield _stat(record if record.exists() else folder / name)


def _stat(path: Path) -> str:
    try:
        real = path.resolve()
        stat = real.stat()
    except OSError:
        return f"{path} absent"
    return f"{path} {real} {stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns} {stat.st_ino}"


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def _path(interpreter: Mapping[str, Any]) -> list[Any]:
    found = interpreter.get("path")
    return found if isinstance(found, list) else []


def _strings(values: Sequence[Any]) -> list[str]:
    return [str(value or "") for value in values]
