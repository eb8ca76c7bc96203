"""``orchestrate plan``: what would run, what is cached, and why."""

from __future__ import annotations

import json
from collections.abc import Sequence


def main(words: Sequence[str]) -> int:
    """Print the plan; return the exit code."""
    from orchestrator.cli.main import add_hydra_options, parse, parser

    made = parser(
        "plan", "Show what would run, what is cached and what depends on another's output."
    )
    add_hydra_options(made)
    made.add_argument("--json", action="store_true", help="print the plan as JSON")
    made.add_argument(
        "--rebuild",
        action="append",
        default=[],
        metavar="STAGE",
        help="as if STAGE were not stored",
    )
    options = parse(made, words)

    from pathlib import Path

    from orchestrator.config.batch import BatchTask
    from orchestrator.config.compose import Composer
    from orchestrator.report.console import console
    from orchestrator.report.plan import Planner, print_plan

    planner = Planner(options.rebuild)
    directory = Path(options.config_dir) if options.config_dir else None
    with Composer(directory, options.config_name) as composer:
        composer.run(
            options.overrides, BatchTask(run=planner.run, dry=True), multirun=options.multirun
        )
    if options.json:
        print(json.dumps(planner.as_json(), indent=1))
    else:
        print_plan(console(), planner)
    return 0
