"""A remembered composition is what a fresh one would be, or is not recalled."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import pytest
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.sources_registry import SourcesRegistry
from omegaconf import OmegaConf
from omegaconf.basecontainer import BaseContainer

from orchestrator.errors import OrchestrateError
from orchestrator.store.index import Index
from tests.config.compose import write_conf
from tests.config.remembering import FP16, MINE, Words, fresh, gone, keep, recalled, told


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    made = Index(tmp_path / "index")
    yield made
    made.close()


SWEEP = Words(overrides=("precision=fp32,fp16", "exporter.opset=18,20"), multirun=True)


@pytest.mark.parametrize(
    "words",
    [
        Words(),
        Words(overrides=("model=minilm", "precision=int8", "+model.args.x=[1,2.5,null,'a: b']")),
        SWEEP,
        Words(overrides=("+experiment=digits_precisions",)),
        Words(overrides=("precision=glob(*)",), multirun=True),
    ],
    ids=["plain", "single", "sweep", "declared", "glob"],
)
def test_what_is_recalled_is_what_is_composed(words: Words, index: Index) -> None:
    assert gone(words, index)
    assert keep(words, index) == ""

    assert told(recalled(words, index)) == fresh(words)


def test_another_request_is_another_composition(index: Index, tmp_path: Path) -> None:
    words = Words(overrides=("precision=fp16",))
    keep(words, index)
    (tmp_path / "work/more").mkdir()

    assert gone(Words(), index)
    assert gone(Words(overrides=("precision=fp16",), multirun=True), index)
    assert gone(Words(overrides=("precision=fp16",), config_dir="more"), index)
    assert gone(Words(overrides=("precision=fp16",), config_name="other"), index)
    os.chdir("more")
    assert gone(words, index)


def test_the_config_directory_must_still_be_there(index: Index) -> None:
    words = Words(config_dir="first")
    Path("first").mkdir()
    assert keep(words, index) == ""
    assert not gone(words, index)

    Path("first").rmdir()

    assert gone(words, index)


def test_the_directories_are_those_of_the_moment(index: Index, tmp_path: Path) -> None:
    words = Words(
        overrides=(
            "precision=fp32,fp16",
            "hydra.sweep.dir='out/${now:%Y}/${model.name}_${hydra:job.name}'",
        ),
        multirun=True,
    )
    assert keep(words, index) == ""
    before = datetime.now()
    directory = recalled(words, index).reserve()
    assert directory == tmp_path / f"work/out/{before:%Y}/digits_orchestrate"
    assert OmegaConf.load(directory / "multirun.yaml").hydra.sweep.dir == str(directory)
    again = recalled(words, index)
    assert again.reserve() == directory.with_name("digits_orchestrate-2")

    again.log_to(directory)
    logging.getLogger("orchestrate").info("to the file")
    assert "to the file" in (directory / "orchestrate.log").read_text()
    keep(Words(), index)
    days = {f"{before:%Y-%m-%d}", f"{datetime.now():%Y-%m-%d}"}
    assert recalled(Words(), index).reserve().parent.name in days


def shadow(work: Path) -> None:
    write_conf(work, {"precision/fp16": FP16})


def edit(work: Path) -> None:
    write_conf(work, {"model/mine": MINE + "batches: 3\n"})


def edit_below(work: Path) -> None:
    write_conf(work, {"model/digits": (work / "conf/model/mine.yaml").read_text()})


def delete(work: Path) -> None:
    (work / "conf/model/mine.yaml").unlink()


def primary(work: Path) -> None:
    write_conf(work, {"orchestrate": "defaults: [{model: mine}, _self_]\n"})


def replace_by_a_folder(work: Path) -> None:
    delete(work)
    (work / "conf/model/mine.yaml").mkdir()


def install_plugin(work: Path) -> None:
    place = work / "hydra_plugins"
    place.mkdir()
    (place / "other.py").write_text("NOTHING = 1\n")


def install_distribution(work: Path) -> None:
    (work / "hydra_other-1.0.dist-info").mkdir()


@pytest.mark.parametrize(
    "change",
    [
        shadow,
        edit,
        edit_below,
        delete,
        primary,
        replace_by_a_folder,
        install_plugin,
        install_distribution,
    ],
)
def test_a_change_of_what_was_asked_is_seen(
    change: Callable[[Path], None], index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = Path.cwd()
    monkeypatch.syspath_prepend(str(work))
    write_conf(work, {"model/mine": MINE})
    words = Words(overrides=("model=mine", "precision=fp16"))
    assert keep(words, index) == ""
    write_conf(work, {"model/unrelated": MINE, "benchmark/unrelated": "enabled: false\n"})
    assert not gone(words, index)

    change(work)

    assert gone(words, index)


def test_a_new_option_is_seen_where_all_were_asked_for(index: Index) -> None:
    words = Words(overrides=("model=glob(*)",), multirun=True)
    write_conf(Path.cwd(), {"model/mine": MINE})
    keep(words, index)
    assert len(recalled(words, index).points) == 3

    write_conf(Path.cwd(), {"model/other": MINE})

    assert gone(words, index)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (MINE + "args: {token: '${oc.env:QD_ONE}'}\n", "QD_ONE"),
        ("defaults: [digits, {base@_here_: '${oc.env:QD_TWO}'}, _self_]\nname: mine\n", "QD_TWO"),
        (MINE + "args: {x: '${oc.env:${.variable}}', variable: QD_ONE}\n", "QD_ONE"),
        (MINE + "args: {x: '${oc.env:QD_NONE,default}'}\n", "QD_NONE"),
    ],
    ids=["value", "defaults", "computed", "default"],
)
def test_variables(text: str, name: str, index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    write_conf(Path.cwd(), {"model/mine": text, "model/base/two": "batches: 2\n"})
    monkeypatch.setenv("QD_ONE", "s3cr3t-enough")
    monkeypatch.setenv("QD_TWO", "two")
    words = Words(overrides=("model=mine",))
    assert keep(words, index) == ""
    assert told(recalled(words, index)) == fresh(words)
    kept = index.get(words.request().key)
    assert kept is not None
    assert "s3cr3t" not in kept

    monkeypatch.setenv("QD_UNRELATED", "x")
    assert not gone(words, index)
    monkeypatch.setenv(name, "minilm")
    assert gone(words, index)
    monkeypatch.delenv(name)
    assert gone(words, index) == (name != "QD_NONE")


def test_values_that_hide_each_other_are_not_kept(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QD_ONE", "a-long-enough-value")
    monkeypatch.setenv("QD_TWO", "sha256")
    words = Words(overrides=("+model.args={a: '${oc.env:QD_ONE}', b: '${oc.env:QD_TWO}'}",))

    assert "told apart" in keep(words, index)
    assert gone(words, index)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("experiment.description=${now:%H}", "${now:...}"),
        ("experiment.description=${hydra:job.name}", "${hydra:...}"),
        ("experiment.description=${hydra.run.dir}", "${now:...}"),
        ("hydra.run.dir='${oc.decode:${now:%H}}'", "takes what"),
        ("hydra.searchpath=[pkg://orchestrator.examples]", "pkg://orchestrator.examples"),
        (
            "+hydra.callbacks.log._target_=hydra.experimental.callbacks.LogJobReturnCallback",
            "hydra.callbacks",
        ),
    ],
)
def test_what_may_differ_next_time_is_not_kept(override: str, says: str, index: Index) -> None:
    words = Words(overrides=(override,))

    assert says in keep(words, index)
    assert gone(words, index)


def test_a_folder_of_the_search_path_that_is_missing_was_a_warning(index: Index) -> None:
    words = Words(overrides=("hydra.searchpath=[file://extra]",))
    with pytest.warns(UserWarning, match="not available"):
        assert "warning" in keep(words, index)
    (Path.cwd() / "extra/precision").mkdir(parents=True)

    assert keep(words, index) == ""
    (Path.cwd() / "extra").rename("elsewhere")
    assert gone(words, index)


@pytest.mark.parametrize("damage", ["", "{}", "x\n{}", "cut", "other"])
def test_a_damaged_entry_is_a_miss(damage: str, index: Index) -> None:
    words = Words()
    keep(words, index)
    key = words.request().key
    text = index.get(key)
    assert text is not None
    index.set(
        key, {"cut": text[:-9], "other": text.replace("digits", "digitz")}.get(damage, damage)
    )

    assert gone(words, index)
    assert keep(words, index) == ""
    assert not gone(words, index)


def test_hydra_is_left_as_it_was(index: Index) -> None:
    keep(Words(), index)
    with pytest.raises(OrchestrateError):
        keep(Words(overrides=("model=none_like_it",)), index)

    assert SourcesRegistry.instance().types["file"].__name__ == FileConfigSource.__name__
    assert BaseContainer._resolvers["oc.env"].__qualname__.startswith("OmegaConf.")


_RECALL = """
import json, sys
from pathlib import Path
from orchestrator.config.remembered import Request, recall
from orchestrator.store.index import Index
found = recall(Request.of(["precision=fp16"]), Index(Path(sys.argv[1])))
heavy = ("hydra", "omegaconf", "yaml", "numpy", "rich")
print(json.dumps([found is not None, [name for name in heavy if name in sys.modules]]))
"""


def test_recalling_imports_nothing_heavy(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = subprocess.run(
        [sys.executable, "-c", "import json, sys; print(json.dumps(sys.path))"],
        capture_output=True,
        check=True,
    )
    monkeypatch.setattr(sys, "path", json.loads(seen.stdout))  # the module path of the child
    assert keep(Words(overrides=("precision=fp16",)), index) == ""
    index.close()

    ended = subprocess.run(
        [sys.executable, "-c", _RECALL, str(tmp_path / "index")], capture_output=True, check=True
    )

    assert json.loads(ended.stdout) == [True, []]
