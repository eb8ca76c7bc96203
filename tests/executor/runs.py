"""Small graphs of real ``samples`` actions, whose user code may do whatever a test needs.

``python -m tests.executor.runs ROOT FUNCTION...`` runs one in a process of its own and prints how
each action ended.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from orchestrator.config.schema import Config, Model
from orchestrator.executor.local import LocalExecutor
from orchestrator.executor.outcome import Estimates, Finished, Outcome
from orchestrator.executor.pool import Pool
from orchestrator.plan.graph import Action, Graph, Step, Variant
from orchestrator.plan.observed import Observer
from orchestrator.plan.resolve import Resolver
from orchestrator.plan.secrets import Secrets
from orchestrator.store.store import Store

HEADER = """\
import ctypes, os, resource, signal, sys, time
from pathlib import Path
import numpy as np
HERE = Path(__file__).parent
def image(dims, value=0.0):
    return {"image": np.full((dims["batch"], 3), value, dtype=np.float32)}
"""

#: Of a configuration only the model's name is asked for: no variant here has a gate.
CONFIG: Config = cast("Any", Config).model_construct(
    model=cast("Any", Model).model_construct(name="user")
)


class Silent:
    """A listener that remembers what waited."""

    def __init__(self) -> None:
        self.waits: list[str] = []

    def planned(self, graph: Graph, estimates: Estimates, workers: int) -> None: ...

    def started(self, action: Action, variants: list[Variant]) -> None: ...

    def progressed(self, action: Action, done: float, text: str) -> None: ...

    def finished(self, action: Action, variants: list[Variant], finished: Finished) -> None: ...

    def waiting(self, action: Action, reason: str) -> None:
        self.waits.append(reason)


@dataclass
class Place:
    """A working directory with the user's module, and a store."""

    root: Path
    listener: Silent = field(default_factory=Silent)

    @property
    def base(self) -> Path:
        """The working directory."""
        return self.root / "work"

    @property
    def store(self) -> Path:
        """The store's directory."""
        return self.root / "store"

    def write(self, source: str, module: str = "user") -> None:
        """Write the user's module."""
        self.base.mkdir(exist_ok=True)
        (self.base / f"{module}.py").write_text(HEADER + source)

    def run(
        self,
        *functions: str,
        timeout_s: float | None = None,
        rebuild: Collection[str] = (),
        workers: int = 2,
        search_path: Sequence[str] = (),
    ) -> dict[str, Finished]:
        """Run one action for each function; return how each ended."""
        outcome, ids = self.outcome(
            functions, timeout_s, rebuild, workers, [*search_path, *sys.path]
        )
        return {name: outcome.finished[identity] for name, identity in ids.items()}

    def outcome(
        self,
        functions: Sequence[str],
        timeout_s: float | None,
        rebuild: Collection[str],
        workers: int,
        search_path: Sequence[str],
        secrets: Secrets | None = None,
        **more: Any,
    ) -> tuple[Outcome, dict[str, str]]:
        """Run and return everything, and the id of each function's action.

        *more* are further settings of the executor.
        """
        graph = Graph()
        ids = {name: add_variant(graph, name) for name in functions}
        outcome = self.run_graph(graph, timeout_s, rebuild, workers, search_path, secrets, **more)
        return outcome, ids

    def run_graph(
        self,
        graph: Graph,
        timeout_s: float | None = None,
        rebuild: Collection[str] = (),
        workers: int = 2,
        search_path: Sequence[str] = sys.path,
        secrets: Secrets | None = None,
        **more: Any,
    ) -> Outcome:
        """Run a graph; *more* are further settings of the executor."""
        store = Store(self.store)
        scratch = store.begin()
        path = [one for one in search_path if one and Path(one) != self.base]
        pool = Pool(self.base, scratch, path)
        secrets = secrets or Secrets({})
        observer = Observer(self.base, [str(self.base), *path], store.index)
        try:
            executor = LocalExecutor(
                graph,
                store,
                Resolver(store, observer, secrets, rebuild=rebuild),
                observer,
                secrets,
                pool,
                self.listener,
                scratch=scratch,
                base=self.base,
                workers=workers,
                timeout_s=timeout_s,
                rebuild=rebuild,
                **more,
            )
            return executor.run()
        finally:
            pool.stop()
            store.end()

    def starts(self, name: str) -> int:
        """How often user code noted in the file *name* that it began."""
        path = self.base / name
        return len(path.read_text().splitlines()) if path.exists() else 0


def add_variant(graph: Graph, function: str) -> str:
    """Add a variant that calls a function of the user's module; return the action's id."""
    identity = graph.add("samples", params(function))
    index = len(graph.variants)
    variant = Variant(index=index, name=function, config=CONFIG, overrides=[])
    variant.steps.append(Step(role="samples", stage="samples", action=identity, gates=0))
    graph.variants.append(variant)
    return identity


def params(function: str) -> dict[str, Any]:
    """Return the parameters of a ``samples`` action that calls a function of the user's module."""
    name = function if ":" in function else f"user:{function}"
    return {
        "data": {"kind": "callable", "function": name, "args": {}, "seed": 0, "labels": None},
        "inputs": {"image": {"dtype": "float32", "shape": ["batch", 3]}},
        "dims": {"batch": {"min": 1, "opt": 2, "max": 3}},
        "purpose": "compare",
        "batches": 1,
        "count": 0,
    }


def main(root: str, *functions: str) -> int:
    """Run in this process and print the statuses; 130 when interrupted."""
    place = Place(Path(root))
    outcome, ids = place.outcome(functions, None, (), 2, sys.path)
    statuses = {name: outcome.finished[identity].status for name, identity in ids.items()}
    print(json.dumps({"statuses": statuses, "waits": place.listener.waits}))
    return 130 if outcome.interrupted else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
