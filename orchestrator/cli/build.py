"""``orchestrate build``: the default verb."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from orchestrator.session import Session

INTERRUPTED = 130


def add_options(made: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    from orchestrator.cli.main import add_hydra_options

    add_hydra_options(made)
    made.add_argument(
        "--rebuild",
        action="append",
        default=[],
        metavar="STAGE",
        help="do not use results of STAGE",
    )
    made.add_argument(
        "--retry-failed", action="store_true", help="run again what failed before, inputs unchanged"
    )
    made.add_argument(
        "--fail-fast", action="store_true", help="the first variant that fails ends the run"
    )
    made.add_argument(
        "--fresh", action="store_true", help="compose anew what was composed before, unchanged"
    )
    made.add_argument("-q", "--quiet", action="store_true", help="only the table and errors")
    made.add_argument("-v", "--verbose", action="store_true", help="a line for cached actions too")
    made.add_argument(
        "--json", action="store_true", help="results as JSON, events as JSON lines on stderr"
    )
    made.add_argument(
        "--cfg", choices=["job", "hydra", "all"], help="print the configuration and stop"
    )
    made.add_argument("--package", metavar="PACKAGE", help="with --cfg: only this part")
    made.add_argument("--resolve", action="store_true", help="with --cfg: resolve interpolations")
    made.add_argument(
        "--info", nargs="?", const="all", metavar="TOPIC", help="Hydra's view: config, defaults, …"
    )
    made.add_argument("-sc", "--shell-completion", action="store_true", help="install=SHELL")


def main(words: Sequence[str]) -> int:
    """Build; return the exit code."""
    from orchestrator.cli.main import parse, parser

    made = parser("build", "Build variants: export, verify, lower, build, measure.")
    add_options(made)
    options = parse(made, words)
    if options.shell_completion or options.cfg or options.info:
        return _show(options)
    return _build(options)


def _show(options: argparse.Namespace) -> int:
    from pathlib import Path

    from orchestrator.cli.completion import complete
    from orchestrator.config.compose import Composer

    directory = Path(options.config_dir) if options.config_dir else None
    with Composer(directory, options.config_name) as composer:
        if options.shell_completion:
            complete(composer, options.overrides)
        elif options.cfg:
            composer.show(options.overrides, options.cfg, options.package, options.resolve)
        else:
            composer.info(options.info, options.overrides)
    return 0


def _build(options: argparse.Namespace) -> int:
    from orchestrator.report.console import console
    from orchestrator.run import run_remembering
    from orchestrator.session import Options, Session, stages_named

    rebuild = stages_named(options.rebuild)
    progress = console(stderr=options.json)
    chosen = Options(
        rebuild=rebuild,
        quiet=options.quiet or options.json,
        verbose=options.verbose,
        events=options.json and not options.quiet,
        retry_failed=options.retry_failed,
        fail_fast=options.fail_fast,
    )
    session = Session(progress, chosen)
    try:
        run_remembering(
            session,
            options.overrides,
            multirun=options.multirun,
            config_dir=options.config_dir,
            config_name=options.config_name,
            fresh=options.fresh,
        )
    finally:  # an error after the first batch does not hide what was built
        if session.results:
            _print(options, progress, session)
    if session.interrupted:
        return INTERRUPTED
    return 0 if all(result.passed for result in session.results) else 1


def _print(options: argparse.Namespace, progress: Console, session: Session) -> None:
    from orchestrator.cli.ending import print_ending, tell_ending

    if options.json:
        tell_ending(session)
        print(json.dumps(_as_json(session), indent=1))
    else:
        print_ending(progress, session)


def _as_json(session: Session) -> dict[str, Any]:
    return {
        "directory": str(session.directory),
        "counts": session.counts,
        "warnings": session.warnings,
        "interrupted": session.interrupted,
        "variants": [
            {**result.manifest, "directory": str(result.directory)} for result in session.results
        ],
    }
