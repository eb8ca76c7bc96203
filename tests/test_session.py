"""What holds for a run as a whole: one store, one executor, valid stages, no secrets shown."""

from __future__ import annotations

import logging
import logging.config
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from rich.console import Console

import orchestrator
from orchestrator.config.hydra_state import preserved
from orchestrator.config.typed import composition
from orchestrator.errors import ConfigError, StageError, UsageError
from orchestrator.plan.secrets import Secrets
from orchestrator.session import Options, Session, hide_in_error, planned
from tests.command import Workplace
from tests.plan.variants import compose

_AFTER_HYDRA = """
from hydra import initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
Plugins.instance()
initialize_config_module("hydra.conf", version_base="1.2")
before = GlobalHydra.instance().hydra
import orchestrator
from orchestrator.config.typed import composition
from orchestrator.errors import ConfigError
for multirun in (False, True):
    try:
        orchestrator.build(["hydra.job.chdir=true"], multirun=multirun)
    except ConfigError as exc:
        print(exc.where, GlobalHydra.instance().hydra is before)
from hydra.version import getbase
print(getbase())
"""


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.parametrize(
    ("override", "key"),
    [("cache.dir=a,b", "cache.dir"), ("executor.workers=1,2", "executor.workers")],
)
def test_a_run_has_one_store_and_one_executor(tmp_path: Path, override: str, key: str) -> None:
    composed = composition(compose(override))
    refused = pytest.raises(ConfigError, match="differs between the variants")
    with refused as caught, planned(composed):
        pass

    assert caught.value.where == key
    assert list(tmp_path.iterdir()) == []


def test_a_stage_to_rebuild_exists() -> None:
    with pytest.raises(UsageError, match="no stage 'exprot'"):
        Session(Console(), Options(rebuild=["samples,exprot"]))


def test_an_error_shows_no_secret() -> None:
    error = StageError("no file s3cr3t", where="s3cr3t:1", hint="not s3cr3t")
    hide_in_error(error, Secrets({"TOKEN": "s3cr3t"}))

    assert "s3cr3t" not in f"{error} {error.args}"
    assert error.render().count("<env TOKEN") == 3


def test_a_program_that_used_hydra_before(tmp_path: Path) -> None:
    place = Workplace.at(tmp_path / "place")
    ended = subprocess.run(
        [sys.executable, "-c", _AFTER_HYDRA],
        cwd=place.directory,
        env=place.environment(),
        capture_output=True,
        text=True,
        check=False,
    )

    assert ended.stdout.splitlines() == ["hydra.job.chdir True"] * 2 + ["1.2"], ended.stderr


def test_the_caller_s_logging_and_hydra_are_kept(tmp_path: Path) -> None:
    root, mine = logging.getLogger(), logging.getLogger("a.caller.s.own")
    handler = logging.FileHandler(tmp_path / "mine.log", mode="w")
    mine.addHandler(handler)
    mine.setLevel(logging.INFO)
    handlers, level = list(root.handlers), root.level
    before = GlobalHydra.instance().hydra, HydraConfig.instance().cfg, list(sys.path)
    try:
        with preserved():
            compose()
            logging.config.dictConfig(
                {
                    "version": 1,
                    "handlers": {"x": {"class": "logging.FileHandler", "filename": "run.log"}},
                    "root": {"level": "DEBUG", "handlers": ["x"]},
                }
            )
            root.debug("in the run's log")
        mine.info("in the caller's log")
    finally:
        mine.removeHandler(handler)
        handler.close()

    assert (root.handlers, root.level, mine.disabled) == (handlers, level, False)
    assert (GlobalHydra.instance().hydra, HydraConfig.instance().cfg, sys.path) == before
    assert (tmp_path / "run.log").read_text() == "in the run's log\n"
    assert (tmp_path / "mine.log").read_text() == "in the caller's log\n"


def test_threads_take_turns() -> None:
    found: dict[str, str] = {}

    def build(override: str) -> None:
        with pytest.raises(ConfigError) as caught:
            orchestrator.build([override])
        found[override] = caught.value.where

    words = {
        "precision=fp61": "precision",
        "exporter.opsett=3": "exporter.opsett (command line)",
        "model.batches=0": "model.batches (command line)",
        "hydra.job.chdir=true": "hydra.job.chdir",
    }
    threads = [threading.Thread(target=build, args=(word,)) for word in words]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert found == words
