"""Configures ``logging`` as ``hydra.job_logging`` and ``hydra.verbose`` say, without Hydra."""

from __future__ import annotations

import logging
import logging.config
from collections.abc import Sequence
from typing import Any

from orchestrator.errors import ConfigError


def configure(content: Any, verbose: Any) -> None:
    """Configure logging, as Hydra's ``configure_log`` does.

    Args:
        content: What ``logging.config.dictConfig`` takes; with an empty ``root`` nothing is done.
        verbose: ``True`` for everything, or the names of loggers that tell all.

    Raises:
        ConfigError: it cannot be configured like this.
    """
    try:
        if content["root"] is not None:
            logging.config.dictConfig(content)
    except (ValueError, TypeError, AttributeError, ImportError, KeyError, OSError) as exc:
        raise ConfigError(
            f"logging cannot be configured like this: {exc.__cause__ or exc}",
            where="hydra/job_logging",
            hint="leave it out, or mend it as logging.config.dictConfig wants it",
        ) from exc
    for name in _loggers(verbose):
        logging.getLogger(name).setLevel(logging.DEBUG)


def _loggers(verbose: Any) -> Sequence[str | None]:
    if isinstance(verbose, bool):
        return [None] if verbose else []
    names = verbose if isinstance(verbose, list) else [verbose]
    if not all(isinstance(name, str) for name in names):
        raise ConfigError(
            f"expected true, false, or the names of loggers; got {verbose!r}", where="hydra.verbose"
        )
    return names
