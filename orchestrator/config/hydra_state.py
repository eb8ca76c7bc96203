"""What Hydra and logging keep for the whole process: kept for a program that calls our API."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.version import VersionBase


@contextmanager
def preserved() -> Iterator[None]:
    """Give the caller back what the block changes: Hydra's globals, logging and ``sys.path``."""
    hydra, config, version = GlobalHydra.instance(), HydraConfig.instance(), VersionBase.instance()
    kept = hydra.hydra, config.cfg, version.version_base, list(sys.path)
    try:
        with _logging_preserved():
            yield
    finally:
        hydra.hydra, config.cfg, version.version_base, sys.path[:] = kept


@contextmanager
def _logging_preserved() -> Iterator[None]:
    # logging.config.dictConfig() closes all handlers that these two know, the caller's too.
    known: list[Any] = [getattr(logging, "_handlerList"), getattr(logging, "_handlers")]  # noqa: B009
    handlers, names = list(known[0]), dict(known[1])
    loggers = [logging.getLogger(), *logging.getLogger().manager.loggerDict.values()]
    states = [
        (one, one.level, list(one.handlers), one.disabled, one.propagate)
        for one in loggers
        if isinstance(one, logging.Logger)
    ]
    known[0].clear()
    known[1].clear()
    try:
        yield
    finally:
        ours = [one() if callable(one) else one for one in known[0]]
        for logger, level, before, disabled, propagate in states:
            logger.setLevel(level)
            logger.handlers[:] = before
            logger.disabled, logger.propagate = disabled, propagate
        for handler in ours:
            if handler is not None:
                handler.close()
        known[0][:] = handlers
        known[1].clear()
        known[1].update(names)
