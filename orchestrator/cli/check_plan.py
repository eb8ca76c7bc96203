"""``orchestrate check-plan FILE``: whether a TensorRT plan will load here, and why not."""

from __future__ import annotations

import argparse
import json
import shlex
import stat
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from orchestrator.errors import OrchestrateError, StageError, UsageError

if TYPE_CHECKING:
    from orchestrator.backends.tensorrt.here import Here
    from orchestrator.backends.tensorrt.toolchain import Toolchain
    from orchestrator.store.index import Index

#: Verdict → exit code; 2 is wrong usage, as everywhere, and 3 the store.
EXIT_CODES: Final = {True: 0, False: 1, None: 4}
_SUMMARY: Final = """\
Tell whether a TensorRT plan will load here, and why not, from its header and the manifest beside
it. No TensorRT is needed to say no; to say yes, the one that would load it is asked once.

Exit codes: 0 it will load, 1 it will not, 2 wrong usage or no such file, 4 not known.
"""
_OURS: Final = ("--json", "--plugin")


def main(words: Sequence[str]) -> int:
    """Print the verdict; return 0 when the plan will load, 1 when not, 4 when that is not known."""
    from orchestrator.cli.main import parse, parser

    made = parser("check-plan", _SUMMARY)
    made.add_argument(
        "file", nargs="?", metavar="FILE", help="a plan, an experiment directory or a package"
    )
    made.add_argument("--json", action="store_true", help="print JSON")
    made.add_argument(
        "--plugin",
        action="append",
        default=[],
        metavar="PATH",
        help="a plugin library that would be loaded with it (may be repeated)",
    )
    made.add_argument(
        "--toolchain",
        nargs=argparse.REMAINDER,
        metavar="WORDS",
        help="the Python that would load it, in words as in toolchain.command (this one, by "
        "default); they come last",
    )
    options = parse(made, words)
    toolchain = _toolchain(options.toolchain)
    if options.file is None:
        raise UsageError(
            "no plan was named",
            where="check-plan",
            hint="write FILE before --toolchain" if toolchain else f"see '{made.prog} --help'",
        )

    from orchestrator.backends.tensorrt.plan_file import check
    from orchestrator.backends.tensorrt.plan_place import find_plan
    from orchestrator.locations import home_expanded
    from orchestrator.report.console import console
    from orchestrator.report.preflight import as_json, print_preflight

    plan = find_plan(home_expanded(options.file, where="FILE"))
    plugins = _plugins(options.plugin)
    here = _here(toolchain)
    try:
        found = check(plan, {**here.identity, "plugins": plugins}, problem=here.problem)
    except StageError as exc:
        raise UsageError(exc.message, where=exc.where, hint="check its permissions") from exc
    if options.json:
        print(json.dumps(as_json(plan, found, here), indent=1))
    else:
        print_preflight(console(), plan, found, here)
    return EXIT_CODES[found.loads]


def _toolchain(words: Sequence[str] | None) -> Toolchain | None:
    """Return the toolchain that ``--toolchain`` names.

    Raises:
        UsageError: it has no words, or options of ours among them.
    """
    from orchestrator.backends.tensorrt.toolchain import Toolchain

    if words is None:
        return None
    try:
        command = tuple(shlex.split(words[0]) if len(words) == 1 else words)
    except ValueError as exc:
        raise UsageError(f"cannot be split into words: {exc}", where="--toolchain") from exc
    ours = next((word for word in command if word in _OURS), "")
    if ours:
        raise UsageError(
            f"takes all words that follow, '{ours}' too",
            where="--toolchain",
            hint=f"write {ours} before it",
        )
    if not all(command) or not command:
        raise UsageError(
            "has no words, or an empty one",
            where="--toolchain",
            hint="the words that lead to a Python, such as --toolchain ssh HOST python3",
        )
    return Toolchain(name=Toolchain(command=command).program, command=command)


def _plugins(paths: Sequence[str]) -> dict[str, str]:
    """Return the SHA-256 of each library by its file name.

    Raises:
        UsageError: one cannot be read.
    """
    from orchestrator.locations import home_expanded
    from orchestrator.store.digests import of_file

    found: dict[str, str] = {}
    for text in paths:
        path = home_expanded(text, where="--plugin")
        try:
            if not stat.S_ISREG(path.stat().st_mode):
                raise UsageError("is no regular file", where=f"--plugin {text}", hint="name a file")
            found[str(path) if path.name in found else path.name] = of_file(path)
        except OSError as exc:
            raise UsageError(
                f"cannot be read: {exc.strerror}", where=f"--plugin {text}", hint="check the path"
            ) from exc
    return found


def _here(toolchain: Toolchain | None) -> Here:
    from orchestrator.backends.tensorrt.here import has_tensorrt, identify
    from orchestrator.report.console import console

    if toolchain is None and not has_tensorrt():
        return identify(None)
    index = _index()
    try:
        name = toolchain.name if toolchain else "local"
        with console(stderr=True).status(f"asking toolchain {name}"):
            return identify(toolchain, index)
    finally:
        if index is not None:
            index.close()


def _index() -> Index | None:
    """Return the index of the store that builds use; None where there is none: looking makes none.

    A configuration that is wrong is no reason not to look at a plan.
    """
    from orchestrator.config.compose import Composer
    from orchestrator.config.typed import typed
    from orchestrator.session import cache_directory
    from orchestrator.store.index import Index
    from orchestrator.store.store import SCHEMA

    try:
        with Composer() as composer:
            root = cache_directory(typed(composer.primary()).cache)
        known = (root / "SCHEMA").read_text().strip() == str(SCHEMA)
    except (OrchestrateError, OSError, ValueError):
        return None
    return Index(root / "index") if known else None
