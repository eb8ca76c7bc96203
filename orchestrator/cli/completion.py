"""Shell completion: Hydra completes overrides, we add the verbs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from orchestrator.cli.main import VERBS
from orchestrator.config.compose import Composer

_OWN = {
    "cache": ("stats", "verify", "forget", "gc"),
}


def complete(composer: Composer, overrides: Sequence[str]) -> None:
    """Answer ``install=SHELL``, ``uninstall=SHELL`` and ``query=SHELL``."""
    line = os.environ.get("COMP_LINE", "")
    words = line.split(" ")
    if any(text.startswith("query=") for text in overrides) and len(words) > 1:
        verb, typing = words[1], words[-1]
        if len(words) == 2:  # the command and the word being typed
            _offer(f"{name} " for name in VERBS if name.startswith(verb))
        if verb in _OWN:
            _offer(name for name in _OWN[verb] if name.startswith(typing))
            return
        if verb in VERBS and len(words) > 2:
            # Hydra knows no verbs: hide ours, and move the cursor with it.
            os.environ["COMP_LINE"] = " ".join([words[0], *words[2:]])
            cursor = int(os.environ.get("COMP_POINT", len(line))) - len(verb) - 1
            os.environ["COMP_POINT"] = str(cursor)
    composer.completion(overrides)


def _offer(words: Iterable[str]) -> None:
    for word in words:
        print(word)
