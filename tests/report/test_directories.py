from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.errors import ConfigError
from orchestrator.report.directories import make_exclusively, reserved, variant_names


def test_long_names_fit_into_a_file_system(tmp_path: Path) -> None:
    names = variant_names([[f"model.name={'模' * 110}{end}"] for end in "ab"], ["", ""], set())

    assert len(set(names)) == 2
    for name in names:
        assert make_exclusively(tmp_path / name).name == name
        assert make_exclusively(tmp_path / name).name == f"{name}-2"


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be made") as caught:
        make_exclusively(tmp_path / "file" / "outputs")
    assert "hydra.run.dir" in caught.value.hint


def _begin(wanted: Path, made: str) -> None:
    """Reserve a directory, put something into it, and fail."""
    with reserved(wanted) as directory:
        (directory / made).write_text("")
        raise KeyError


def test_a_reserved_directory_is_given_back_when_nothing_came_of_it(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    for name in ("mine/outputs/sweep", "mine/sweep"):
        with pytest.raises(KeyError):
            _begin(tmp_path / name, "multirun.yaml")
    assert list(tmp_path.rglob("*")) == [tmp_path / "mine"], "what was there before stays"


def test_a_reserved_directory_with_something_in_it_stays(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        _begin(tmp_path / "sweep", "orchestrate.log")
    with reserved(tmp_path / "sweep") as second:
        assert second == tmp_path / "sweep-2"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sweep", "sweep-2"]


def test_a_file_in_the_directory_s_place_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="there is a file"):
        make_exclusively(tmp_path / "file")
