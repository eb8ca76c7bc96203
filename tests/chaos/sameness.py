"""Whether two runs of a sweep gave the same, in the sense that each stage declares."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from orchestrator.config.saved import saved
from orchestrator.config.typed import typed
from orchestrator.plan.reasons import History
from orchestrator.report.manifest import read_manifest
from orchestrator.report.sameness import Build, compare
from orchestrator.store.results import Results


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A sweep's directory, and the store that it was built in."""

    directory: Path
    store: Path

    @property
    def variants(self) -> dict[str, Path]:
        """The experiment directories by name."""
        return {path.parent.name: path.parent for path in self.directory.glob("*/manifest.json")}

    def build(self, variant: str) -> Build:
        """Return one of its builds."""
        manifest = read_manifest(self.variants[variant])
        return Build(manifest=manifest, history=History(Results(self.store)))


def differences(first: Sweep, second: Sweep) -> list[str]:
    """Return a line for each action of a variant that is not the same in *second*."""
    if sorted(first.variants) != sorted(second.variants):
        return [f"{sorted(first.variants)} became {sorted(second.variants)}"]
    found = []
    for name, directory in first.variants.items():
        config = typed(saved(directory / ".hydra").config)
        lines = compare(first.build(name), second.build(name), config)
        found += [
            f"{name}: {line.role}: {line.verdict}, {line.text}"
            for line in lines
            if line.verdict not in ("same bytes", "same verdict")
        ]
    return found
