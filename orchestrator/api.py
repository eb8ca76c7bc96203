"""The Python API: the same as the command, returning results and raising the same errors."""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Final

from rich.console import Console

from orchestrator.config.hydra_state import preserved
from orchestrator.report.experiment import VariantResult
from orchestrator.run import run
from orchestrator.session import Options, Session

# Hydra keeps its state once for a process, so two threads take turns.
_TURN: Final = threading.RLock()


def build(
    overrides: Sequence[str] = (),
    *,
    multirun: bool = False,
    config_dir: str | Path | None = None,
    config_name: str | None = None,
    rebuild: Collection[str] = (),
    retry_failed: bool = False,
    fail_fast: bool = False,
    quiet: bool = True,
) -> list[VariantResult]:
    """Build the variants that *overrides* describe, as ``orchestrate [-m] OVERRIDES`` does.

    Hydra's globals and the configuration of ``logging`` are afterwards what they were before.
    Threads that call it at the same time take turns.

    Args:
        overrides: Hydra overrides, such as ``["model=digits", "precision=int8"]``.
        multirun: Comma-separated values make a sweep (``-m``).
        config_dir: A directory of configurations that comes before ``./conf`` and the built-in one.
        config_name: Another primary configuration.
        rebuild: Stages whose stored results are not used.
        retry_failed: Run again what failed before with the same inputs.
        fail_fast: The first variant that fails ends the run.
        quiet: Show no progress.

    Returns:
        One result for each variant. A variant that failed is a result too: look at ``passed`` and
        ``failures``.

    Raises:
        UsageError: *rebuild* names no stage.
        ConfigError: the configuration is wrong.
        PlanError: nothing can be planned from it here.
        StoreError: the store cannot be written.
        KeyboardInterrupt: Ctrl-C; what was finished is kept.
    """
    options = Options(rebuild=rebuild, retry_failed=retry_failed, fail_fast=fail_fast, quiet=quiet)
    session = Session(Console(stderr=True), options)
    with _TURN, preserved():
        run(session, overrides, multirun=multirun, config_dir=config_dir, config_name=config_name)
    if session.interrupted:
        raise KeyboardInterrupt
    return session.results
