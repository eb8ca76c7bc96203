from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.errors import ConfigError
from orchestrator.report.directories import make_exclusively, variant_names


def test_long_names_fit_into_a_file_system(tmp_path: Path) -> None:
    names = variant_names([[f"model.name={'模' * 110}{end}"] for end in "ab"], ["", ""])

    assert len(set(names)) == 2
    for name in names:
        assert make_exclusively(tmp_path / name).name == name
        assert make_exclusively(tmp_path / name).name == f"{name}-2"


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be made") as caught:
        make_exclusively(tmp_path / "file" / "outputs")
    assert "hydra.run.dir" in caught.value.hint
