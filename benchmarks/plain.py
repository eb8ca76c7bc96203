"""A plain script: one variant's library calls, one after the other, in one process.

``python benchmarks/plain.py CHAIN.json FOLDER`` runs the stages' own functions in the chain's
order, on plain directories below FOLDER: the same samples, reference outputs, export, onnxsim,
checks, sessions, comparisons, profile and measurement, since it is the same code. What it leaves
out is what the orchestrator adds: configuration and planning, a process for each action, records
of what user code touched, digests, the store, and experiment directories.

:func:`chain_of` writes the chain of a planned graph: its actions, each after its inputs.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from orchestrator.plan.graph import Graph
from orchestrator.stages.base import Context
from orchestrator.stages.catalogue import stage as find_stage


def chain_of(graph: Graph) -> str:
    """Return the actions of *graph* as JSON, each after its inputs."""
    return json.dumps([
        {
            "id": action.id,
            "stage": action.stage,
            "params": action.params,
            "inputs": {name: [ref.action, ref.output] for name, ref in action.inputs.items()},
            "files": {name: str(file.path) for name, file in action.files.items()},
        }
        for action in graph.actions.values()
    ])  # fmt: skip


class Unrecorded:
    """Imports user code and records nothing."""

    def importing(self, function: str) -> Callable[..., Any]:
        """Return the callable ``package.module:attribute``."""
        name, _, attributes = function.partition(":")
        module: Any = importlib.import_module(name)
        found: Callable[..., Any] = functools.reduce(getattr, attributes.split("."), module)
        return found

    def calling(self) -> contextlib.AbstractContextManager[None]:
        """Do nothing."""
        return contextlib.nullcontext()

    def file(self, path: Path) -> Path:
        """Return *path*."""
        return path


def run(action: Mapping[str, Any], folder: Path) -> None:
    """Run one action of the chain; its outputs lie in *folder*, below its id.

    Raises:
        StageError: the stage refused.
    """
    stage, own = find_stage(action["stage"]), folder / action["id"]
    outputs = {name: own / name for name in stage.outputs}
    for path in (*outputs.values(), own / "scratch"):
        path.mkdir(parents=True)
    context = Context(
        params=action["params"],
        inputs={name: folder / source / part for name, (source, part) in action["inputs"].items()},
        outputs=outputs,
        scratch=own / "scratch",
        paths={name: Path(path) for name, path in action["files"].items()},
        observe=Unrecorded(),
        progress=lambda done, text="": None,
        log=print,
    )
    values = stage.run(context)
    (own / "values.json").write_text(json.dumps(values), encoding="utf-8")


def main(chain: str, folder: str) -> None:
    """Run the whole chain."""
    for action in json.loads(Path(chain).read_bytes()):
        run(action, Path(folder))


if __name__ == "__main__":
    main(*sys.argv[1:])
