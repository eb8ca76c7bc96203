"""What user code touched decides whether its result still holds. It really runs, in a worker."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from orchestrator.plan.graph import Graph
from orchestrator.plan.observed import Observer
from orchestrator.plan.resolve import Resolver
from orchestrator.plan.secrets import Secrets
from orchestrator.store.store import Store
from tests.executor.runs import HEADER, Place, params

MODULE = "def f(*, dims, offset, seed):\n    return image(dims, VALUE)\nVALUE = 1.0\n"


def status(place: Place, function: str = "user:f", *, on_path: Path | None = None) -> str:
    finished = place.run(function, search_path=[str(on_path)] if on_path else [])[function]
    assert finished.error is None, finished.error
    return finished.status


def reason(place: Place, function: str = "user:f", *, on_path: Path | None = None) -> str:
    """Why it would run; '' when it is cached."""
    store = Store(place.store)
    path = [str(place.base), *([str(on_path)] if on_path else []), *sys.path]
    resolver = Resolver(store, Observer(place.base, path, store.index), Secrets({}))
    whole = Graph()
    identity = whole.add("samples", params(function))
    return resolver.resolve(whole.actions[identity], {}).reason


def test_a_comment_costs_nothing_and_an_edit_runs_it(place: Place) -> None:
    place.write(MODULE)
    assert status(place) == "ran"
    place.write("# a comment\n\n" + MODULE.replace("return", "return  ", 1))
    assert status(place) == "cached"
    place.write(MODULE.replace("1.0", "2.0"))
    assert reason(place) == "source of user changed"
    assert status(place) == "ran"
    place.write(MODULE)
    assert status(place) == "cached", "the old result is still there"


def test_modules_it_imports_count_wherever_the_import_stands(place: Place) -> None:
    place.write(
        "import helper\n"
        "def f(*, dims, offset, seed):\n"
        "    from package.inner import late\n"
        "    return image(dims, helper.VALUE + late.VALUE)\n"
    )
    (place.base / "package" / "inner").mkdir(parents=True)  # a namespace package: no __init__.py
    for name in ("helper", "package/inner/late"):
        (place.base / f"{name}.py").write_text("VALUE = 1.0\n")
    assert (status(place), status(place)) == ("ran", "cached")
    for name, module in (("helper", "helper"), ("package/inner/late", "package.inner.late")):
        (place.base / f"{name}.py").write_text("VALUE = 2.0\n")
        assert reason(place) == f"source of {module} changed"
        assert status(place) == "ran"
    (place.base / "unrelated.py").write_text("VALUE = 2.0\n")
    assert status(place) == "cached"


def test_a_function_in_a_namespace_package(place: Place) -> None:
    (place.base / "space" / "inner").mkdir(parents=True)
    path = place.base / "space" / "inner" / "data.py"
    path.write_text(HEADER + MODULE)
    assert (status(place, "space.inner.data:f"), status(place, "space.inner.data:f")) == (
        "ran",
        "cached",
    )
    path.write_text(HEADER + MODULE.replace("1.0", "2.0"))
    assert status(place, "space.inner.data:f") == "ran"


def test_a_module_that_shadows_another_is_noticed(place: Place, tmp_path: Path) -> None:
    place.write(
        "import helper\ndef f(*, dims, offset, seed):\n    return image(dims, helper.VALUE)\n"
    )
    library = tmp_path / "library"
    library.mkdir()
    (library / "helper.py").write_text("VALUE = 1.0\n")
    assert status(place, on_path=library) == "ran"
    assert status(place, on_path=library) == "cached"
    (place.base / "helper.py").write_text("VALUE = 2.0\n")
    assert reason(place, on_path=library) == "source of helper changed"
    assert status(place, on_path=library) == "ran"
    (place.base / "helper.py").unlink()
    assert status(place, on_path=library) == "cached"


@pytest.mark.parametrize("kind", ["read", "numpy", "directory"])
def test_a_file_that_it_reads_counts(place: Place, kind: str) -> None:
    reading = {
        "read": "float((HERE / 'data' / 'value.txt').read_text())",
        "numpy": "np.loadtxt('data/value.txt')",
        "directory": "sum(float(path.read_text()) for path in (HERE / 'data').iterdir())",
    }[kind]
    place.write(f"def f(*, dims, offset, seed):\n    return image(dims, {reading})\n")
    data = place.base / "data" / "value.txt"
    data.parent.mkdir()
    data.write_text("1.5")
    assert (status(place), status(place)) == ("ran", "cached")
    data.write_text("2.5")
    assert reason(place) == "data/value.txt changed"
    assert status(place) == "ran"
    data.write_text("1.5")
    assert status(place) == "cached"
    moved = place.root / "moved"
    place.base.rename(moved)
    shutil.copytree(moved, place.base)
    assert status(place) == "cached", "another inode with the same contents is the same file"


def test_a_file_looked_for_in_vain_counts(place: Place) -> None:
    place.write(
        "def f(*, dims, offset, seed):\n"
        "    try: value = float(open('override.txt').read())\n"
        "    except FileNotFoundError: value = 0.0\n"
        "    return image(dims, value)\n"
    )
    assert (status(place), status(place)) == ("ran", "cached")
    (place.base / "override.txt").write_text("3")
    assert reason(place) == "override.txt changed"
    assert status(place) == "ran"


def test_a_file_that_it_only_writes_does_not_count(place: Place) -> None:
    place.write(
        "def f(*, dims, offset, seed):\n"
        "    (HERE / 'note.txt').write_text(str(time.time_ns()))\n"
        "    return image(dims)\n"
    )
    assert (status(place), status(place)) == ("ran", "cached")
    (place.base / "note.txt").write_text("other")
    assert status(place) == "cached"


def install(root: Path, version: str, value: float) -> Path:
    """Install the distribution ``fakelib`` into *root*, as pip would."""
    if root.exists():
        shutil.rmtree(root)
    (root / "fakelib").mkdir(parents=True)
    (root / "fakelib" / "__init__.py").write_text("from fakelib.value import VALUE\n")
    (root / "fakelib" / "value.py").write_text(f"VALUE = {value}\n")
    info = root / f"fakelib-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: fakelib\nVersion: {version}\n")
    (info / "top_level.txt").write_text("fakelib\n")
    (info / "RECORD").write_text(
        f"fakelib/__init__.py,,\nfakelib/value.py,sha256=of-{value},\n{info.name}/METADATA,,\n"
        f"{info.name}/RECORD,,\n"
    )
    return root


USES_LIBRARY = (
    "import fakelib\ndef f(*, dims, offset, seed):\n    return image(dims, fakelib.VALUE)\n"
)


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = install(tmp_path / "library", "1.0", 1.0)
    monkeypatch.syspath_prepend(str(root))  # where package metadata are looked up
    return root


def test_an_upgraded_distribution_runs_it(place: Place, library: Path) -> None:
    place.write(USES_LIBRARY)
    assert (status(place, on_path=library), status(place, on_path=library)) == ("ran", "cached")
    install(library, "1.0", 3.0)
    assert reason(place, on_path=library) == "fakelib reinstalled with other contents"
    install(library, "1.1", 2.0)
    assert reason(place, on_path=library) == "fakelib 1.0 → 1.1"
    assert status(place, on_path=library) == "ran"
    install(library, "1.0", 1.0)
    assert status(place, on_path=library) == "cached"
    shutil.rmtree(library)
    assert "fakelib 1.1 → none" in reason(place, on_path=library)


def test_a_module_that_shadows_a_distribution_is_noticed(place: Place, library: Path) -> None:
    place.write(USES_LIBRARY)
    assert (status(place, on_path=library), status(place, on_path=library)) == ("ran", "cached")
    (place.base / "fakelib.py").write_text("VALUE = 9.0\n")
    assert reason(place, on_path=library) == "fakelib does not come from fakelib any more"
    assert status(place, on_path=library) == "ran"


def test_an_edit_inside_a_distribution_without_its_record_is_not_looked_for(
    place: Place, library: Path
) -> None:
    """Documented: installed distributions are taken at their RECORD's word, so a no-op is quick."""
    place.write(USES_LIBRARY)
    assert status(place, on_path=library) == "ran"
    (library / "fakelib" / "value.py").write_text("VALUE = 7.0\n")
    assert status(place, on_path=library) == "cached"
