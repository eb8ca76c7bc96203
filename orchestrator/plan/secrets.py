"""Values taken from environment variables: used by actions, never written down (DESIGN 16)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from orchestrator.store import digests

_SHORTEST = 4


def variables(names: Iterable[str]) -> dict[str, str]:
    """Return the environment variables *names* with their values; empty where one is not set.

    The order is the same in every process: what replaces values in keys must not depend on it.
    """
    values = {name: os.environ.get(name, "") for name in names}
    return dict(_longest_first(values))


class Secrets:
    """Replaces the values of ``${oc.env:NAME}`` in whatever is stored or shown.

    In a key the value still counts: it is replaced by its digest. A value shorter than four
    characters is replaced only where it is the whole text, because it would occur everywhere.
    """

    def __init__(self, values: Mapping[str, str]) -> None:
        """Take environment variable names and their values."""
        self._values = {name: value for name, value in _longest_first(values) if value}

    def hide(self, value: Any) -> Any:
        """Return *value* (JSON) with every secret replaced by its variable's name and digest."""
        if not self._values:
            return value
        if isinstance(value, str):
            return self.hide_text(value)
        if isinstance(value, Mapping):
            return {self.hide(key): self.hide(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.hide(item) for item in value]
        return value

    def hide_text(self, text: str) -> str:
        """Return *text* with every secret replaced."""
        for name, value in self._values.items():
            if text == value or (len(value) >= _SHORTEST and value in text):
                text = text.replace(value, _mark(name, value))
        return text

    def reveal(self, value: Any) -> Any:
        """Return *value* (JSON) with what :meth:`hide` put there replaced by the values again.

        A variable that has another value by now leaves its mark as it is.
        """
        if not self._values:
            return value
        if isinstance(value, str):
            for name, secret in self._values.items():
                value = value.replace(_mark(name, secret), secret)
            return value
        if isinstance(value, Mapping):
            return {self.reveal(key): self.reveal(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.reveal(item) for item in value]
        return value


def _longest_first(values: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return names and values, the longest value first: one may be part of another."""
    return sorted(values.items(), key=lambda item: (-len(item[1]), item[0]))


def _mark(name: str, value: str) -> str:
    return f"<env {name} sha256:{digests.of_bytes(value.encode())}>"
