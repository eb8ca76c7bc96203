"""One operation of the worker, on behalf of an action: its files, locks, log and plugins."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.backends.base import Job, Json, Target
from orchestrator.backends.tensorrt.plan_file import NAME, verify
from orchestrator.backends.tensorrt.toolchain import Answer, Toolchain, Watch, call


def operate(
    job: Job, target: Target, request: Mapping[str, Any], files: Mapping[str, Path], name: str
) -> tuple[Answer, Path]:
    """Let the target's toolchain perform *request* on *files* (relative name → path).

    Returns:
        Its answer, and the directory in which it left files.

    Raises:
        ToolchainError, WorkerLostError: see :func:`orchestrator.backends.tensorrt.toolchain.call`.
    """
    directory = job.scratch / name
    directory.mkdir()
    toolchain = toolchain_of(job)
    sent = {f"plugins/{at}/{path.name}": path for at, path in enumerate(_plugins(job))}
    plugins = list(sent)
    if toolchain.here:  # where they are: what they need may lie beside them ($ORIGIN)
        plugins, sent = [str(path) for path in _plugins(job)], {}
    chosen = {"gpu": job.reach["gpu"]} if "gpu" in job.reach else {}
    whole = {"expect": target["expect"], "plugins": plugins, **chosen, **request}
    watch = Watch(log=job.log, progress=job.progress, locks=job.locks)
    answer = call(toolchain, whole, directory, files={**sent, **files}, watch=watch)
    return answer, directory


def toolchain_of(job: Job) -> Toolchain:
    """Return the toolchain that the action reaches."""
    return Toolchain.from_json(job.reach)


def plugin_digests(job: Job) -> dict[str, str]:
    """Return SHA-256 of each plugin library, by file name."""
    from orchestrator.store.digests import of_file

    return {path.name: of_file(path) for path in _plugins(job)}


def loaded(model: Path, target: Target) -> tuple[Json, dict[str, Path], Json]:
    """Return the request fields and files with which an operation loads the engine in *model*.

    The plan is held against its manifest first, and the worker does so again: a flipped byte would
    load without complaint.

    Returns:
        Request fields, files, and the plan's manifest.

    Raises:
        StageError: it is not the plan that was built.
    """
    manifest = verify(model / NAME)
    fields: Json = {"plan": NAME, "sha256": manifest["plan"]["sha256"]}
    if target["host_code"]:
        fields["host_code"] = True
    return fields, {NAME: model / NAME}, manifest


def _plugins(job: Job) -> list[Path]:
    """Return the plugin libraries in the order of ``target.plugins``."""
    names = [name for name in job.files if name.startswith("plugin.")]
    return [job.files[name] for name in sorted(names, key=lambda name: int(name.partition(".")[2]))]
