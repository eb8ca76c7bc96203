"""``orchestrate explain``: why each action hit or missed."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from orchestrator.errors import UsageError

_PATH_LETTERS = ("/", "~/", "./")


def main(words: Sequence[str]) -> int:
    """Explain an experiment directory, or what a run with these overrides would do."""
    from orchestrator.cli.main import add_hydra_options, parse, parser

    made = parser(
        "explain",
        "Show why each action hit or missed: what differs from the nearest earlier one of its "
        "stage.\nGive an experiment directory, or overrides for what a run would do.",
    )
    add_hydra_options(made)
    made.add_argument(
        "--stage", action="append", default=[], metavar="NAME", help="only this stage"
    )
    made.add_argument("--json", action="store_true", help="print JSON")
    options = parse(made, words)

    from orchestrator.session import stages_named

    options.stage = stages_named(options.stage)
    directory = _directory(options.overrides)
    return _explain_run(options) if directory is None else _explain(directory, options)


def _directory(words: Sequence[str]) -> Path | None:
    """Return the directory that the words name; None when they are overrides.

    Raises:
        UsageError: a directory among other words.
    """
    # A directory of a sweep is named by its overrides, so the text alone does not tell.
    named = [word for word in words if _is_path(word)]
    if not named:
        return None
    if len(words) > 1:
        raise UsageError(
            f"'{named[0]}' is a directory, to which no overrides belong",
            where="explain",
            hint="give one directory, or overrides (key=value) alone",
        )
    return Path(named[0]).expanduser()


def _is_path(word: str) -> bool:
    from orchestrator.report.manifest import NAME

    if (Path(word) / NAME).is_file():
        return True
    return word.startswith(_PATH_LETTERS) or ("=" not in word and not word.startswith(("+", "~")))


def _explain(directory: Path, options: argparse.Namespace) -> int:
    from orchestrator.report.console import console
    from orchestrator.report.explain import explain_recorded, print_explained
    from orchestrator.report.recorded import experiments, recorded

    if options.multirun or options.config_dir or options.config_name:
        raise UsageError(
            "-m, -cd and -cn belong to overrides, not to a directory", where=str(directory)
        )
    found: list[dict[str, Any]] = []
    for number, place in enumerate(paths := experiments(directory)):
        experiment = recorded(place)
        entries = explain_recorded(experiment, options.stage)
        found.append(
            {
                "directory": str(place),
                "name": experiment.manifest.get("name"),
                "actions": [vars(one) for one in entries],
            }
        )
        if not options.json:
            if len(paths) > 1:
                print(f"{'' if number == 0 else chr(10)}{place}")
            print_explained(console(), entries)
    if options.json:
        print(json.dumps({"schema": 1, "experiments": found}, indent=1))
    return 0


def _explain_run(options: argparse.Namespace) -> int:
    from orchestrator.config.batch import BatchTask
    from orchestrator.config.compose import Composer
    from orchestrator.report.console import console
    from orchestrator.report.explain import Explainer, print_explained

    explainer = Explainer(options.stage)
    directory = Path(options.config_dir) if options.config_dir else None
    with Composer(directory, options.config_name) as composer:
        task = BatchTask(run=explainer.run, dry=True)
        composer.run(options.overrides, task, multirun=options.multirun)
    if options.json:
        actions = [vars(one) for one in explainer.entries]
        content = {"schema": 1, "variants": explainer.variants, "actions": actions}
        print(json.dumps(content, indent=1))
    else:
        print_explained(console(), explainer.entries)
    return 0
