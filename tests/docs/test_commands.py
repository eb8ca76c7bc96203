"""Every command, configuration and printed output in the README and the guide is tried."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from tests.docs import toolchains
from tests.docs.pages import Command, Commands, File, prints, read_page

ROOT = Path(__file__).parents[2]
#: Pages whose commands build for longer than a quick run of the tests should take.
BUILDING = (
    *("README", "caching", "engines", "existing-onnx", "explain", "first-run", "precision"),
    *("sweeps", "tensorrt", "toolchains", "troubleshooting", "your-model"),
)
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs" / "guide").glob("*.md")))


@dataclass(frozen=True, kw_only=True)
class Shell:
    """Runs the pages' commands.

    Attributes:
        root: Holds what is not the page's: programs, the stores, temporary files.
        cache: The store's name below it.
        variables: What the environment has besides.
    """

    root: Path
    cache: str = "shared"
    variables: Mapping[str, str] = field(default_factory=dict)

    def run(self, command: Command, directory: Path) -> subprocess.CompletedProcess[str]:
        """Run one command as a reader would."""
        words = ["bash", "-c", command.line]
        if command.script:
            words = [sys.executable, "-c", command.script]
        return subprocess.run(
            words,
            cwd=directory,
            env={
                **os.environ,
                "PATH": f"{self.root / 'bin'}:{os.environ['PATH']}",
                "XDG_CACHE_HOME": str(self.root / "cache" / self.cache),
                "TMPDIR": str(self.root / "tmp"),
                "COLUMNS": "240",
                "PYTHONDONTWRITEBYTECODE": "1",
                **self.variables,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    root = tmp_path_factory.mktemp("docs")
    for name in ("bin", "cache", "tmp"):
        (root / name).mkdir()
    for name, words in (("orchestrate", "-m orchestrator.cli.main "), ("python", "")):
        path = root / "bin" / name
        path.write_text(f'#!/bin/sh\nexec {sys.executable} {words}"$@"\n')
        path.chmod(0o755)
    toolchains.install_programs(root / "bin")
    return Shell(root=root)


def _has_slow_parts(page: Path) -> bool:
    return any(isinstance(part, Commands) and part.slow for part in read_page(page))


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=pytest.mark.slow if page.stem in BUILDING else (), id=page.stem)
        for page in PAGES
        # The slow test below follows the whole page; twice, in one store, is another story.
        if not (page.stem in BUILDING and _has_slow_parts(page))
    ],
)
def test_page_does_what_it_says(page: Path, shell: Shell, tmp_path: Path) -> None:
    _follow(page, shell, tmp_path, slow=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if _has_slow_parts(page)],
    ids=lambda page: page.stem,
)
def test_slow_parts_of_page(page: Path, shell: Shell, tmp_path: Path) -> None:
    _follow(page, shell, tmp_path, slow=True)


def test_pages_over_the_stand_in_say_so() -> None:
    texts = {page.stem: page.read_text(encoding="utf-8") for page in PAGES}
    assert set(toolchains.PAGES) <= set(texts)
    assert all("stand-in" in texts[name] for name in toolchains.PAGES)


def test_pages_have_commands() -> None:
    commands = [part for page in PAGES for part in read_page(page) if isinstance(part, Commands)]
    assert len(commands) > 20


def _follow(page: Path, shell: Shell, directory: Path, *, slow: bool) -> None:
    if page.stem in BUILDING:  # what it says must not depend on which pages came before
        shell = replace(shell, cache=page.stem)
    if page.stem in toolchains.PAGES:
        shell = replace(shell, variables=toolchains.install_environments(directory))
    for part in read_page(page):
        if isinstance(part, File):
            path = directory / part.name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(part.text)
        elif slow or not part.slow:
            _check(part, shell, directory)


def _check(part: Commands, shell: Shell, directory: Path) -> None:
    printed = ""
    for command in part.commands:
        ended = shell.run(command, directory)
        assert ended.returncode == command.code, f"{command.line}\n{ended.stdout}"
        assert "Traceback" not in ended.stdout, f"{command.line}\n{ended.stdout}"
        printed += ended.stdout
    for line in part.expected:
        assert prints(line, printed), f"{part.commands[-1].line}\n{line!r} is not in\n{printed}"
