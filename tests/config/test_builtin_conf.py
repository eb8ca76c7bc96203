"""The files in ``conf/``: each composes, fits the schema, and says what its name says."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.config.schema import KEYED, Config
from orchestrator.locations import bundled
from tests.config.compose import checked

CONF = bundled("conf")
FILES = sorted(CONF.glob("*/*.yaml"))
OPTIONS = [path for path in FILES if path.parent.name not in ("experiment", "hydra")]
EXPERIMENTS = sorted((CONF / "experiment").glob("*.yaml"))


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_groups_are_those_of_the_schema() -> None:
    folders = {path.name for path in CONF.iterdir() if path.is_dir()} - {"hydra"}

    assert folders == set(Config.model_fields)
    assert set(KEYED) <= folders


def test_the_defaults_are_valid() -> None:
    config = checked()

    assert config.model.name == "digits"
    assert config.precision.name == "fp32"


@pytest.mark.parametrize("path", OPTIONS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_each_option_is_valid(path: Path) -> None:
    group = path.parent.name
    config = checked(f"{group}={path.stem}")
    chosen = getattr(config, group)

    if group in ("model", "exporter", "simplifier", "precision", "profile", "toolchain"):
        assert chosen.name == path.stem
    if group == "calibration":
        assert chosen.method == path.stem


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_experiments_name_themselves(path: Path) -> None:
    text = path.read_text()

    assert text.startswith("# @package _global_\n")
    assert f"  name: {path.stem}\n" in text
