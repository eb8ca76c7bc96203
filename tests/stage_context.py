"""Runs one stage in this process on directories under ``tmp_path``, as a worker would."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.stages.base import Context, Json, Stage, execute


@dataclass
class OpenObservations:
    """Observations that import what is asked for and remember the files named."""

    files: list[Path] = field(default_factory=list)

    def importing(self, function: str) -> Callable[..., Any]:
        module, _, attribute = function.partition(":")
        found: Any = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
        return found  # type: ignore[no-any-return]

    @contextlib.contextmanager
    def calling(self) -> Iterator[None]:
        yield

    def file(self, path: Path) -> Path:
        self.files.append(path)
        return path


@dataclass
class StageRun:
    """What a stage left: its values, the directory of each output, the log lines."""

    values: Json
    outputs: dict[str, Path]
    log: list[str]
    observed: OpenObservations


def run_stage(
    stage: Stage,
    tmp_path: Path,
    params: Mapping[str, Any],
    inputs: Mapping[str, Path] | None = None,
    paths: Mapping[str, Path] | None = None,
) -> StageRun:
    """Run *stage* once; each call gets fresh output directories under *tmp_path*."""
    number = len(list(tmp_path.glob(f"{stage.name}-*")))
    root = tmp_path / f"{stage.name}-{number}"
    outputs = {name: root / name for name in stage.outputs}
    for path in (*outputs.values(), root / "scratch"):
        path.mkdir(parents=True)
    log: list[str] = []
    observed = OpenObservations()
    values = execute(
        stage,
        Context(
            params=params,
            inputs=inputs or {},
            outputs=outputs,
            scratch=root / "scratch",
            paths=paths or {},
            observe=observed,
            progress=lambda done, text="": None,
            log=log.append,
        ),
    )
    return StageRun(values, outputs, log, observed)
