"""Shell completion of verbs, groups, options and what belongs to a verb."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.calling import call
from tests.command import Workplace


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """An empty working directory with one configuration of the user's own."""
    made = Workplace.at(tmp_path_factory.mktemp("completion"))
    (made.directory / "conf" / "model").mkdir(parents=True)
    (made.directory / "conf" / "model" / "mine.yaml").write_text("name: mine\n")
    return made


def complete(place: Workplace, line: str) -> list[str]:
    environment = {"COMP_LINE": line, "COMP_POINT": str(len(line))}
    ran = call(place, "--shell-completion", "query=bash", env=environment)
    assert ran.code == 0, ran.text
    assert ran.err == ""
    return ran.out.split()


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("orchestrate pl", {"plan"}),
        ("orchestrate ca", {"cache"}),
        ("orchestrate cache ve", {"verify"}),
        ("orchestrate preci", {"precision="}),
        ("orchestrate precision=fp", {"precision=fp32", "precision=fp16"}),
        ("orchestrate plan precision=i", {"precision=int8"}),
        ("orchestrate model=", {"model=digits", "model=minilm", "model=mine"}),
        ("orchestrate exporter.ops", {"exporter.opset="}),
    ],
)
def test_what_is_offered(place: Workplace, line: str, offered: set[str]) -> None:
    assert offered <= set(complete(place, line))


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_install_prints_what_the_shell_should_eval(place: Workplace, shell: str) -> None:
    # The installed script: what is printed names the program that it is for.
    script = Path(sys.executable).with_name("orchestrate")
    ran = subprocess.run(
        [str(script), "--shell-completion", f"install={shell}"],
        cwd=place.directory,
        env=place.environment(),
        capture_output=True,
        text=True,
        check=False,
    )

    assert ran.returncode == 0, ran.stderr
    assert "orchestrate" in ran.stdout
    assert "-sc query=" in ran.stdout
