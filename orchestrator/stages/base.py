"""What a stage is: a declaration that the planner reads, and a function that a worker runs.

The planner imports stage modules for their ``STAGE`` declaration and must stay light: a stage
module
imports torch, onnx, onnxruntime or numpy only inside its functions. ``run(ctx)`` is called in a
fresh worker process with plain JSON parameters, read-only input directories and empty output
directories; :func:`execute` checks on every run that the declaration was kept.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from orchestrator.errors import StageError

Json = dict[str, Any]


class Repeats(enum.Enum):
    """In which sense a second, uncached run of the same action equals the first."""

    BYTES = "same bytes"
    VERDICT = "same verdict"
    MEASUREMENT = "measurement"


class Scope(enum.Enum):
    """How far a stage's result depends on the machine that runs it (and so what its key holds)."""

    NONE = "none"
    CPU = "cpu"


class Use(enum.Enum):
    """How an action uses the device of its target, where it has one."""

    NONE = "not at all"
    SHARED = "beside others"
    ALONE = "alone"


@dataclass(frozen=True, kw_only=True)
class Memory:
    """How much memory a worker needs at most, until one was measured.

    Attributes:
        base_mib: Whatever the inputs are: the interpreter, the libraries, working memory. In MiB.
        per_input: Bytes for each byte of the input trees and declared files.
    """

    base_mib: int = 512
    per_input: float = 3.0

    def bytes_for(self, input_bytes: int) -> int:
        """Return the bytes that a worker needs whose inputs have *input_bytes*."""
        return (self.base_mib << 20) + int(self.per_input * input_bytes)


class Progress(Protocol):
    """Reports how far a running action is; called from the stage, shown in the live view."""

    def __call__(self, done: float, text: str = "") -> None:
        """Report *done* in 0..1 and what is being worked on."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """The declaration of one kind of step.

    Attributes:
        name: Unique, lower case; appears in manifests, keys and ``--rebuild NAME``.
        version: Raised whenever the stage's code changes what it produces; part of the key.
        repeats: The sense in which the stage is repeatable.
        inputs: Names of the input trees it reads. A name ending in ``?`` may be absent.
        outputs: Names of the output trees it writes; every one must be filled.
        tools: Distributions whose versions decide the result, by distribution name, or a function
            of the parameters that gives them; the special name ``onnxruntime`` stands for whichever
            of onnxruntime and onnxruntime-gpu is installed.
        scope: How far the result depends on the machine, or a function of the parameters.
        user_code: The stage imports code or reads files that the user named; what it really touched
            is recorded through ``ctx.observe`` and checked by the next plan.
        exclusive: Runs alone on the machine (benchmarks).
        device: How it uses the target's device.
        memory: What a worker needs at most; what was measured for the same model counts instead.
        seconds: How long it usually takes, as long as nobody has measured it.
        run: ``run(ctx) -> values``; *values* is a JSON object kept in the result.
    """

    name: str
    version: int
    repeats: Repeats
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    tools: tuple[str, ...] | Callable[[Mapping[str, Any]], tuple[str, ...]] = ()
    scope: Scope | Callable[[Mapping[str, Any]], Scope] = Scope.NONE
    user_code: bool = False
    exclusive: bool = False
    device: Use = Use.NONE
    memory: Memory = Memory()
    seconds: float = 1.0
    run: Callable[[Context], Json]

    def tools_for(self, params: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the distributions that an action with *params* uses."""
        return self.tools(params) if callable(self.tools) else self.tools

    def scope_for(self, params: Mapping[str, Any]) -> Scope:
        """Return how far an action with *params* depends on the machine of its worker."""
        return self.scope(params) if callable(self.scope) else self.scope


class Observations(Protocol):
    """Records what user code touched, so that the next plan can check it (a two-level key)."""

    def importing(self, function: str) -> Callable[..., Any]:
        """Import and return the callable ``package.module:attribute``; record its sources.

        Raises:
            StageError: when the module or the attribute does not exist, or fails to import.
        """

    def calling(self) -> Any:
        """Return a context manager under which opened files and imported modules are recorded."""

    def file(self, path: Path) -> Path:
        """Record that *path* was read, and return it."""


@dataclass(frozen=True, kw_only=True)
class Context:
    """What a running stage sees.

    Attributes:
        params: The action's parameters, plain JSON, exactly as they stand in the key.
        inputs: A read-only directory for each input tree.
        outputs: An empty directory for each declared output tree.
        scratch: A directory for temporary files, removed afterwards.
        paths: Absolute paths of the files that the user declared (checkpoint, data); their digests
            are in the key, the paths are not.
        observe: Recorder of user code.
        progress: Progress callback.
        log: Writes a line to the action's log.
        threads: CPU threads the action may use.
        reach: How the target's toolchain is reached; in no key.
        locks: Descriptors of the action's locks: a process of another toolchain holds them too.
        shared: A directory of the store that outlives the action, for what makes later ones faster.
    """

    params: Mapping[str, Any]
    inputs: Mapping[str, Path]
    outputs: Mapping[str, Path]
    scratch: Path
    paths: Mapping[str, Path] = field(default_factory=dict)
    observe: Observations
    progress: Progress
    log: Callable[[str], None]
    threads: int = 1
    reach: Mapping[str, Any] = field(default_factory=dict)
    locks: Sequence[int] = ()
    shared: Path | None = None


def execute(stage: Stage, ctx: Context) -> Json:
    """Run *stage* in *ctx* and check that its declaration was kept.

    Returns:
        The stage's values, a JSON object.

    Raises:
        StageError: from the stage itself.
        TypeError, ValueError, AssertionError: when the stage broke its declaration; addressed to
        the
            stage's author.
    """
    missing = {name for name in stage.inputs if not name.endswith("?")} - set(ctx.inputs)
    unknown = set(ctx.inputs) - {name.rstrip("?") for name in stage.inputs}
    if missing or unknown:
        raise ValueError(
            f"stage '{stage.name}' was given inputs {sorted(ctx.inputs)} but declares "
            f"{list(stage.inputs)}: mend the planner or the stage's `inputs`"
        )
    before = {name: _fingerprint(path) for name, path in ctx.inputs.items()}
    values = stage.run(ctx)
    for name, path in ctx.inputs.items():
        if _fingerprint(path) != before[name]:
            raise AssertionError(
                f"stage '{stage.name}' changed its input '{name}': inputs are read-only; "
                "write to ctx.outputs or ctx.scratch"
            )
    for name, path in ctx.outputs.items():
        if next(path.iterdir(), None) is None:
            raise AssertionError(
                f"stage '{stage.name}' declares output '{name}' but wrote nothing to it"
            )
    try:
        json.dumps(values, allow_nan=False)
    except (TypeError, ValueError) as exc:
        raise TypeError(f"stage '{stage.name}' returned values that are no JSON: {exc}") from exc
    return values


def _fingerprint(root: Path) -> list[tuple[str, int, int]]:
    return sorted(_stats(root))


def _stats(root: Path) -> Iterator[tuple[str, int, int]]:
    for path in root.iterdir():
        stat = path.stat()
        yield path.name, stat.st_size, stat.st_mtime_ns
        if path.is_dir():
            yield from ((f"{path.name}/{name}", size, time) for name, size, time in _stats(path))


__all__ = [
    "Context",
    "Json",
    "Memory",
    "Observations",
    "Progress",
    "Repeats",
    "Scope",
    "Stage",
    "StageError",
    "Use",
    "execute",
]
