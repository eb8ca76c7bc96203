"""What actions cost in earlier runs: seconds and peak memory, remembered in the store's index.

They decide what starts first, how many run at a time and what the user is told of the time left,
never a result: an index that is lost costs some guesses.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from orchestrator.plan.graph import Action, Variant
from orchestrator.plan.secrets import Secrets
from orchestrator.store import digests
from orchestrator.store.index import Index

_KEPT: Final = 9
#: A write that took longer waited for a lock that somebody forgot, and so would the next.
_SLOW_S: Final = 1.0


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one action took.

    Attributes:
        seconds: Wall time of its worker.
        peak_bytes: Peak resident memory of the worker, or of a process it waited for.
    """

    seconds: float
    peak_bytes: int


class Costs:
    """The newest costs of each kind of action, from the narrowest kind to the widest.

    Kinds are: this stage with these parameters for this model, this stage for this model, this
    stage. They outlive edits of sources and weights, which change every action.
    """

    def __init__(
        self, wanted: Mapping[str, Sequence[Variant]], index: Index, secrets: Secrets
    ) -> None:
        """Read nothing yet.

        Args:
            wanted: The variants that want each action, by action id.
            index: Where costs are remembered.
            secrets: Hidden in what names a kind.
        """
        self._wanted, self._index, self._secrets = wanted, index, secrets
        self._kinds: dict[str, tuple[str, str, str]] = {}
        self._known: dict[str, list[Cost]] = {}
        self._writes = True

    def narrow(self, action: Action) -> list[Cost]:
        """Return what the same stage took for the same model, newest last; often empty."""
        exact, model, _ = self._kinds_of(action)
        return self._read(exact) or self._read(model)

    def wide(self, action: Action) -> list[Cost]:
        """Return what the same stage took, for the same model where that is known, newest last."""
        return self.narrow(action) or self._read(self._kinds_of(action)[2])

    def add(self, action: Action, cost: Cost) -> None:
        """Remember what a successful action took. Of two processes at once one may be lost.

        An index that somebody keeps locked is not written any more: nobody waits for guesses.
        """
        for kind in self._kinds_of(action):
            if self._writes:
                self._known.pop(kind, None)  # another process may have added some
            self._known[kind] = [*self._read(kind), cost][-_KEPT:]
            if self._writes:
                self._write(kind)

    def _write(self, kind: str) -> None:
        text = ";".join(f"{one.seconds:.4g} {one.peak_bytes}" for one in self._known[kind])
        begun = time.monotonic()
        self._index.set(kind, text)
        self._writes = time.monotonic() - begun < _SLOW_S

    def _kinds_of(self, action: Action) -> tuple[str, str, str]:
        found = self._kinds.get(action.id)
        if found is None:
            stage = f"cost:{action.stage}"
            model = self._secrets.hide_text(self._wanted[action.id][0].config.model.name)
            params = self._secrets.hide(action.params)
            exact = digests.of_json("cost", [model, params])
            found = (f"{stage}:{exact}", f"{stage}:{digests.of_json('cost', model)}", stage)
            self._kinds[action.id] = found
        return found

    def _read(self, kind: str) -> list[Cost]:
        if kind not in self._known:
            self._known[kind] = _parsed(self._index.get(kind) or "")
        return self._known[kind]


def _parsed(text: str) -> list[Cost]:
    """Return the costs in *text*; of another format: none."""
    try:
        pairs = [pair.split(" ") for pair in text.split(";") if pair]
        costs = [Cost(seconds=float(seconds), peak_bytes=int(peak)) for seconds, peak in pairs]
    except ValueError:
        return []
    return costs if all(math.isfinite(one.seconds) for one in costs) else []
