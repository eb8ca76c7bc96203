"""``orchestrate cache``: stats, verify, forget and gc."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from orchestrator.errors import UsageError

if TYPE_CHECKING:
    from orchestrator.store.store import Store

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_BINARY = {"ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


def main(words: Sequence[str]) -> int:
    """Look after the store; return the exit code."""
    from orchestrator.cli.main import parse, parser

    made = parser("cache", "Look after the store of artifacts and results.")
    made.add_argument("action", choices=["stats", "verify", "forget", "gc"])
    made.add_argument("selector", nargs="*", help="forget: stage names or beginnings of keys")
    made.add_argument("--dir", help="the store (default: cache.dir of the configuration)")
    made.add_argument("--max-size", metavar="SIZE", help="gc: keep at most this, such as 20GiB")
    made.add_argument("--json", action="store_true", help="print JSON")
    options = parse(made, words)
    if options.selector and options.action != "forget":
        raise UsageError(
            f"'{options.selector[0]}' is one word too many",
            where=f"cache {options.action}",
            hint="write a size as one word: --max-size 5GB" if options.max_size else "",
        )
    if options.max_size and options.action != "gc":
        raise UsageError("belongs to 'cache gc'", where="--max-size", hint="leave it out")

    from orchestrator.store.store import Store

    directory, budget = _configured(options.dir)
    store = Store(directory)
    try:
        match options.action:
            case "stats":
                return _stats(store, as_json=options.json)
            case "verify":
                return _verify(store, as_json=options.json)
            case "forget":
                return _forget(store, options.selector, as_json=options.json)
            case _:
                wanted = parse_size(options.max_size) if options.max_size else budget
                return _gc(store, wanted, as_json=options.json)
    finally:
        store.end()


def parse_size(text: str) -> int:
    """Return bytes for ``500MB``, ``20GiB`` or a plain number.

    Raises:
        UsageError: it is no size.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]i?)?b?\s*", text.lower())
    if found is None:
        raise UsageError(f"'{text}' is no size", where="--max-size", hint="such as 500MB or 20GiB")
    return int(float(found[1]) * {**_UNITS, **_BINARY}[found[2] or ""])


def _configured(directory: str | None) -> tuple[Any, int]:
    """Return the store's directory and budget in bytes, from the option or the configuration.

    Raises:
        UsageError: the option names a directory that is no store; looking must not make one.
    """
    from orchestrator.config.compose import Composer
    from orchestrator.config.typed import typed
    from orchestrator.locations import home_expanded
    from orchestrator.session import cache_directory

    with Composer() as composer:
        cache = typed(composer.primary()).cache
    budget = int(cache.max_size_gib * 2**30)
    if not directory:
        return cache_directory(cache), budget
    path = home_expanded(directory, where="--dir")
    if not (path / "SCHEMA").is_file():
        raise UsageError(
            "is no store (it has no SCHEMA file)",
            where=f"--dir {directory}",
            hint="give the directory that cache.dir names, or leave the option out",
        )
    return path, budget


def _stats(store: Store, *, as_json: bool) -> int:
    from dataclasses import asdict

    from orchestrator.report.table import size_text
    from orchestrator.store.collection import stats

    found = stats(store)
    if as_json:
        print(json.dumps(asdict(found), indent=1))
        return 0
    print(f"{found.directory}: {size_text(found.bytes)} in {found.trees} trees")
    print(f"{found.results} results, {found.measurements} measurements, ", end="")
    print(f"{found.pinned_trees} trees pinned by experiment directories")
    for stage, count in found.stages.items():
        print(f"  {stage:14}{count:6}")
    return 0


def _verify(store: Store, *, as_json: bool) -> int:
    from orchestrator.store.collection import verify

    problems = verify(store)
    if as_json:
        print(json.dumps({"problems": problems}, indent=1))
    else:
        print("\n".join(problems) or "the store is whole: every byte was read and compared")
        if problems:
            print("  → nothing to do: what is damaged is built again when it is needed")
    return 1 if problems else 0


def _forget(store: Store, selectors: Sequence[str], *, as_json: bool) -> int:
    from orchestrator.store.collection import forget

    if not selectors:
        raise UsageError("nothing to forget was named", where="cache forget", hint="a stage or key")
    gone = [result for selector in selectors for result in forget(store, selector)]
    if as_json:
        print(json.dumps([{"stage": one.stage, "key": one.key} for one in gone], indent=1))
    else:
        print(f"forgot {len(gone)} results; 'orchestrate cache gc' frees their space")
    return 0


def _gc(store: Store, max_bytes: int, *, as_json: bool) -> int:
    from dataclasses import asdict

    from orchestrator.report.table import size_text
    from orchestrator.store.collection import collect

    found = collect(store, max_bytes)
    if as_json:
        print(json.dumps(asdict(found), indent=1))
        return 0
    print(
        f"removed {found.removed_results} results and {found.removed_trees} trees "
        f"({size_text(found.freed_bytes)}); {size_text(found.kept_bytes)} kept"
    )
    for pin in found.unreadable_pins:
        print(f"warning: {pin} cannot be read, so nothing was removed: mend or delete it")
    return 0
