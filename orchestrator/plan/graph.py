"""The graph: actions merged over all variants, and what each variant wants of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from orchestrator.config.schema import Config
from orchestrator.store import digests

Check = Literal["judge", "score", "audit"]


@dataclass(frozen=True, kw_only=True)
class Ref:
    """An output of another action."""

    action: str
    output: str


@dataclass(frozen=True, kw_only=True)
class File:
    """A file or directory that the user declared: its digest is in the key, its path is not.

    Attributes:
        identity: Size and times at which it was digested; the worker checks that they still hold.
    """

    path: Path
    digest: str
    identity: str = ""


@dataclass(frozen=True, kw_only=True)
class Action:
    """A stage with parameters and inputs. Variants that need the same action share its ``id``.

    Attributes:
        unkeyed: Names of inputs that the worker is given but that are in no key.
        reach: How the target is reached, for the worker; in no key.
        devices: UUIDs of the GPUs that serve it equally well: it runs on one of them, which builds
            and measurements have for themselves. Empty: it needs none.
    """

    id: str
    stage: str
    params: Mapping[str, Any]
    inputs: Mapping[str, Ref]
    files: Mapping[str, File]
    salt: str = ""
    unkeyed: frozenset[str] = frozenset()
    reach: Mapping[str, Any] = field(default_factory=dict)
    devices: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Gate:
    """A judgement that a variant must pass before anything behind it runs for this variant.

    Attributes:
        name: What is judged, for people: ``onnx``, ``lowered``, ``session`` or ``engine``,
            ``task``, ``audit``.
        check: The kind of verdict.
        action: The action whose values are judged.
        precision: Whose tolerance applies.
    """

    name: str
    check: Check
    action: str
    precision: str


@dataclass(frozen=True, kw_only=True)
class Step:
    """One action in a variant's chain; it waits for the first ``gates`` gates of the variant."""

    role: str
    stage: str
    action: str
    gates: int


@dataclass(kw_only=True)
class Variant:
    """One variant: its configuration and its chain in order.

    Attributes:
        artifact: The name of what is built in the end: ``session`` or ``engine``.
        command: The equivalent command of the vendor's own tool; '' for none.
        notes: Sentences about what was planned otherwise than asked.
    """

    index: int
    name: str
    config: Config
    overrides: list[str]
    steps: list[Step] = field(default_factory=list)
    gates: list[Gate] = field(default_factory=list)
    artifacts: dict[str, Ref] = field(default_factory=dict)
    artifact: str = "session"
    command: str = ""
    notes: list[str] = field(default_factory=list)


@dataclass(kw_only=True)
class Graph:
    """All actions, every one after its inputs, and the variants.

    ``fresh`` holds the measurements that a variant wants taken again.
    """

    actions: dict[str, Action] = field(default_factory=dict)
    fresh: set[str] = field(default_factory=set)
    variants: list[Variant] = field(default_factory=list)

    def add(
        self,
        stage: str,
        params: Mapping[str, Any],
        *,
        inputs: Mapping[str, Ref] | None = None,
        files: Mapping[str, File] | None = None,
        salt: str = "",
        unkeyed: frozenset[str] = frozenset(),
        reach: Mapping[str, Any] | None = None,
        devices: Sequence[str] = (),
    ) -> str:
        """Add an action, or find the equal one that is there; return its id.

        How a target is reached, and on which of equal devices, does not tell actions apart: either
        way leads to the same.
        """
        inputs, files = inputs or {}, files or {}
        identity = digests.of_json(
            "planned action",
            {
                "stage": stage,
                "params": params,
                "inputs": {name: [ref.action, ref.output] for name, ref in inputs.items()},
                "files": {name: file.digest for name, file in files.items()},
                "salt": salt,
            },
        )
        if identity not in self.actions:
            self.actions[identity] = Action(
                id=identity,
                stage=stage,
                params=params,
                inputs=inputs,
                files=files,
                salt=salt,
                unkeyed=unkeyed,
                reach=reach or {},
                devices=tuple(devices),
            )
        return identity

    def wanted_by(self) -> dict[str, list[Variant]]:
        """Return the variants that want each action, in the variants' order."""
        found: dict[str, list[Variant]] = {identity: [] for identity in self.actions}
        for variant in self.variants:
            for step in variant.steps:
                if not found[step.action] or found[step.action][-1] is not variant:
                    found[step.action].append(variant)
        return found
