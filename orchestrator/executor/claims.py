"""The locks that an action needs before it starts: the machine's, its key's and a GPU's."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.executor.machine import MachineLock, try_devices
from orchestrator.plan.graph import Action
from orchestrator.stages.base import Use
from orchestrator.stages.catalogue import stage as find_stage
from orchestrator.store.locks import Lock
from orchestrator.store.store import Store


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What was taken for one action.

    Attributes:
        locks: To be released when it has ended.
        device: Which of its devices it has; '' for none.
    """

    locks: list[Lock]
    device: str = ""

    def release(self) -> None:
        """Let go of everything."""
        for lock in self.locks:
            lock.release()


class Claims:
    """Takes locks, and remembers for one round which of them others hold."""

    def __init__(self, store: Store) -> None:
        """Hold nothing."""
        self._store = store
        self._machine = MachineLock()
        self._taken: set[object] = set()
        self._given: list[Claim] = []

    @property
    def machine(self) -> list[int]:
        """The descriptor of the machine's lock, which must live as long as any work."""
        return self._machine.descriptor

    def begin_round(self) -> None:
        """Look again at what others held."""
        self._taken.clear()

    def take(self, action: Action, key: str) -> Claim | str:
        """Take what *action* with *key* needs; where others hold it, return what is waited for.

        Raises:
            StoreError: the lock file cannot be made.
        """
        stage = find_stage(action.stage)
        if stage.exclusive in self._taken or not self._machine.hold(exclusive=stage.exclusive):
            self._taken.add(stage.exclusive)
            other = "is at work" if stage.exclusive else "is measuring"
            return f"another orchestrate {other} on this machine"
        lock = self._store.lock(key)
        if lock is None:
            return "another worker is building the same"
        if not action.devices:
            return self._give(Claim(locks=[lock]))
        alone = stage.device is Use.ALONE
        use = (action.devices, alone)
        taken = None if use in self._taken else try_devices(action.devices, alone=alone)
        if taken is None:
            self._taken.add(use)
            lock.release()
            return "no GPU is free"
        device, of_device = taken
        return self._give(Claim(locks=[lock, of_device], device=device))

    def release(self) -> None:
        """Let go of everything, whatever ended the run: workers hold on what they were handed."""
        for claim in self._given:
            claim.release()
        self._machine.release()

    def _give(self, claim: Claim) -> Claim:
        self._given.append(claim)
        return claim
