"""What user code depends on besides its sources: everything that changes its result is noticed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.executor.runs import Place

READS = """
def variable(*, dims, offset, seed):
    return image(dims, float(os.environ.get("WEIGHT", "1")))
def settings(*, dims, offset, seed):
    found = {}
    exec(open(HERE / "settings.py").read(), found)
    return image(dims, found["value"])
def listing(*, dims, offset, seed):
    return image(dims, float(len(list((HERE / "many").glob("*.txt")))))
def optional(*, dims, offset, seed):
    try:
        import faster
        return image(dims, faster.VALUE)
    except ImportError:
        return image(dims)
def update(*, dims, offset, seed):
    with open(HERE / "counter.txt", "r+b") as file:
        return image(dims, float(file.read()))
def swapped(*, dims, offset, seed):
    first, second = (float((HERE / name / "v.txt").read_text()) for name in ("one", "two"))
    return image(dims, first - 2 * second)
def fruitless(*, dims, offset, seed):
    made = HERE / "made.tmp"
    made.write_text("3")
    return image(dims, float(made.read_text()))
"""


@pytest.fixture
def reading(place: Place) -> Place:
    place.write(READS)
    for name, text in {
        "settings.py": "value = 1.0",
        "counter.txt": "1",
        "many/a.txt": "1",
        "one/v.txt": "1",
        "two/v.txt": "2",
    }.items():
        path = place.base / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return place


def swap(base: Path) -> None:
    (base / "one" / "v.txt").write_text("2")
    (base / "two" / "v.txt").write_text("1")


CHANGES: dict[str, Callable[[Path], object]] = {
    "settings": lambda base: (base / "settings.py").write_text("value = 2.0"),
    "listing": lambda base: (base / "many" / "b.txt").write_text("1"),
    "optional": lambda base: (base / "faster.py").write_text("VALUE = 2.0"),
    "update": lambda base: (base / "counter.txt").write_text("2"),
    "swapped": swap,
}


def test_what_it_reads_counts(reading: Place) -> None:
    first = reading.run(*CHANGES)
    assert {one.status for one in first.values()} == {"ran"}
    assert {one.status for one in reading.run(*CHANGES).values()} == {"cached"}
    for change in CHANGES.values():
        change(reading.base)
    second = reading.run(*CHANGES)
    for name in CHANGES:
        before, after = first[name].result, second[name].result
        assert second[name].status == "ran", name
        assert before is not None
        assert after is not None
        assert before.outputs != after.outputs, name
    assert {one.status for one in reading.run(*CHANGES).values()} == {"cached"}


def test_an_environment_variable_it_asks_for_counts(
    reading: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WEIGHT", raising=False)
    assert reading.run("variable")["variable"].status == "ran"
    monkeypatch.setenv("UNRELATED", "1")
    assert reading.run("variable")["variable"].status == "cached"
    monkeypatch.setenv("WEIGHT", "5")
    assert reading.run("variable")["variable"].status == "ran"
    monkeypatch.delenv("WEIGHT")
    assert reading.run("variable")["variable"].status == "cached"


def test_a_file_that_it_makes_itself_is_no_input(reading: Place) -> None:
    assert reading.run("fruitless")["fruitless"].status == "ran"
    assert reading.run("fruitless")["fruitless"].status == "cached"


def test_a_module_at_another_place_reads_other_files(place: Place, tmp_path: Path) -> None:
    """The same source on another search path, beside other data."""
    place.base.mkdir(exist_ok=True)
    source = "from pathlib import Path\nimport numpy as np\ndef f(*, dims, offset, seed):\n"
    source += "    value = float((Path(__file__).parent / 'v.txt').read_text())\n"
    source += "    return {'image': np.full((dims['batch'], 3), value, dtype=np.float32)}\n"
    for name, value in (("here", "1"), ("there", "2")):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "elsewhere.py").write_text(source)
        (folder / "v.txt").write_text(value)
    found = [
        place.run("elsewhere:f", search_path=[str(tmp_path / name)])["elsewhere:f"]
        for name in ("here", "there", "here")
    ]
    assert [one.status for one in found] == ["ran", "ran", "cached"]
    results = [one.result.outputs for one in found if one.result is not None]
    assert results[0] != results[1]
    assert results[0] == results[2]


def test_a_source_edited_while_it_runs_stores_nothing(place: Place) -> None:
    path = str(place.base / "data.txt")
    place.write(
        "def f(*, dims, offset, seed):\n"
        f"    value = float(open({path!r}).read())\n"
        f"    os.system('echo 2 > ' + {path!r})\n"
        "    return image(dims, value)\n"
    )
    (place.base / "data.txt").write_text("1")
    finished = place.run("f")["f"]
    assert finished.status == "failed"
    assert finished.error is not None
    assert "was written while the action ran" in finished.error.message
    assert "nothing was stored" in finished.error.hint


def test_threads_of_the_environment_do_not_change_a_result(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.write(
        "def f(*, dims, offset, seed):\n"
        "    a = np.random.default_rng(0).normal(size=(700, 700)).astype(np.float32)\n"
        "    return image(dims, float((a @ a)[3, 5]))\n"
    )
    outputs = []
    for threads in ("1", "2"):
        monkeypatch.setenv("OPENBLAS_NUM_THREADS", threads)
        result = place.run("f", rebuild=["samples"])["f"].result
        assert result is not None
        outputs.append(result.outputs)
    assert outputs[0] == outputs[1]


def test_a_module_loaded_by_its_path_counts_as_a_file(place: Place) -> None:
    """No finder knows it, so only its file can be looked at again."""
    place.write(
        "def f(*, dims, offset, seed):\n"
        "    from importlib import util\n"
        "    spec = util.spec_from_file_location('strange', HERE / 'parts' / 'strange.py')\n"
        "    module = util.module_from_spec(spec)\n"
        "    sys.modules['strange'] = module\n"
        "    spec.loader.exec_module(module)\n"
        "    return image(dims, module.VALUE)\n"
    )
    source = place.base / "parts" / "strange.py"
    source.parent.mkdir()
    source.write_text("VALUE = 1.0\n")
    assert place.run("f")["f"].status == "ran"
    assert place.run("f")["f"].status == "cached"
    source.write_text("VALUE = 2.0\n")
    assert place.run("f")["f"].status == "ran"
    assert place.run("f")["f"].status == "cached"
