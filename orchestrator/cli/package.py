"""``orchestrate package DIR --to PATH``: a self-contained copy of one experiment."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def main(words: Sequence[str]) -> int:
    """Make a package; return the exit code."""
    from orchestrator.cli.main import parse, parser

    made = parser("package", "Copy one experiment's artifacts into a self-contained directory.")
    made.add_argument("directory", help="an experiment directory below outputs/")
    made.add_argument("--to", required=True, metavar="PATH", help="the directory to make")
    options = parse(made, words)

    from orchestrator.locations import shown
    from orchestrator.package import make_package
    from orchestrator.report.table import size_text

    made_at, size = make_package(Path(options.directory), Path(options.to))
    print(f"{shown(made_at)}: {size_text(size)}")
    return 0
