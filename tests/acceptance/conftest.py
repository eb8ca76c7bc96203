"""What is built once and looked at by many tests. A test that changes something takes a copy."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.acceptance.files import make_files
from tests.command import Built, Workplace

DEMO = ("-m", "precision=fp32,fp16,int8")
# As the demo, with a short benchmark: what it measures is no test's business.
QUICK = ("benchmark.warmup_ms=1", "benchmark.measure_ms=1", "benchmark.min_runs=3")
# The TorchScript exporter takes a fraction of the time; the demo is exported by dynamo.
BRIEF = ("exporter=torchscript", "benchmark=none")
TINY = ("-m", "model=tiny", "precision=fp32,int8", *BRIEF)

PASSING = ("tiny", "talks", "trusted", "from_file")
FAILING = (
    "misfit",
    "pickled",
    "not_a_number",
    "constant",
    "untranslatable",
    "small_batches",
    "leaves",
    "wrong_input",
    "truncated",
    "leaving",
)


@dataclass(frozen=True, kw_only=True)
class Site:
    """A workplace and what was built in it first."""

    place: Workplace
    built: Built


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """The demo's three variants of digits, built into an empty store."""
    place = Workplace.at(tmp_path_factory.mktemp("demo"))
    return Site(place=place, built=place.build(*DEMO, *QUICK))


@pytest.fixture(scope="session")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A user's project with models that pass and models that fail, built as one sweep."""
    place = Workplace.at(tmp_path_factory.mktemp("gallery"))
    source = Path(__file__).parent / "project"
    shutil.copytree(
        source, place.directory, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__*__*")
    )
    make_files(place.directory)
    models = ",".join((*PASSING, *FAILING))
    return Site(place=place, built=place.build("-m", f"model={models}", *BRIEF))


@pytest.fixture(scope="session")
def tiny(gallery: Site) -> Site:
    """The project's smallest model in fp32 and int8."""
    return Site(place=gallery.place, built=gallery.place.build(*TINY))


@pytest.fixture
def edited(tiny: Site, tmp_path: Path) -> Workplace:
    """A copy of the project, to edit, and of its store, to damage."""
    return tiny.place.copied(tmp_path)


@pytest.fixture
def place(tmp_path: Path) -> Workplace:
    """An empty working directory and an empty store."""
    return Workplace.at(tmp_path)


@pytest.fixture
def copy_of(tmp_path: Path) -> Callable[[Site], Workplace]:
    """Return a function that copies a site's store and files."""
    return lambda site: site.place.copied(tmp_path)
