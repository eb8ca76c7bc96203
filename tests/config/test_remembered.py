"""A remembered composition is what a fresh one would be, or is not recalled."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path

import pytest
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf
from omegaconf.basecontainer import BaseContainer
from rich.console import Console

from orchestrator.config.job_logging import configure
from orchestrator.config.remembered import HERE, recall
from orchestrator.errors import ConfigError, OrchestrateError, StoreError
from orchestrator.run import run_remembering
from orchestrator.session import Options, Session
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


def test_each_variant_saves_in_its_own_folder(index: Index) -> None:
    alone = "# @package _global_\n"
    other = f"{alone}hydra: {{output_subdir: .other}}\n"
    write_conf(Path.cwd(), {"experiment/one": f"{alone}{{}}\n", "experiment/two": other})
    words = Words(overrides=("+experiment=one,two",), multirun=True)
    assert keep(words, index) == ""

    assert told(recalled(words, index)) == fresh(words)


@pytest.mark.parametrize("name", ["plain", "a b: #\u00f6\u2028\x7f'", "with spaces " * 9])
def test_odd_directories_are_written_as_omegaconf_writes_them(name: str, index: Index) -> None:
    words = Words()
    keep(words, index)
    directory = Path.cwd() / name
    directory.mkdir()

    saved = recalled(words, index).points[0].save(directory) / "hydra.yaml"

    assert saved.read_text() == OmegaConf.to_yaml(OmegaConf.load(saved))
    assert OmegaConf.load(saved).hydra.runtime.output_dir == str(directory)


def test_a_sweep_of_which_nothing_came_leaves_no_directory(index: Index) -> None:
    file = "hydra.job_logging.handlers.file.filename=missing/x.log"
    words = Words(overrides=("precision=fp16", "hydra.sweep.dir=out/sweep", file), multirun=True)
    assert keep(words, index) == ""

    with ExitStack() as until:
        found = recall(words.request(), index, until)
        assert found is not None
        directory = found.reserve()
        assert (directory / "multirun.yaml").is_file()
        with pytest.raises(ConfigError, match="missing"), until:
            found.log_to(directory)

    assert not Path("out").exists()


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
    "override",
    [
        "hydra.run.dir='${now:%Y-${oc.env:QD_ONE}}'",
        "+model.args={a: '${oc.decode:${oc.env:QD_ONE}}'}",
        "+model.args={a: '${oc.create:${oc.env:QD_ONE}}'}",
        "+model.args={a: '${oc.env:${oc.env:QD_ONE},none}'}",
    ],
)
def test_what_is_made_of_a_variables_value_is_not_kept(
    override: str, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QD_ONE", "[s3cr3t-enough]")

    assert "of a variable's value" in keep(Words(overrides=(override,)), index)


def test_the_time_in_a_directory_hides_no_variable(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QD_ONE", "s3cr3t-enough")
    where = "hydra.sweep.dir='out/${oc.env:QD_ONE}/${now:%H}'"
    words = Words(overrides=(where, "precision=fp16"), multirun=True)
    assert keep(words, index) == ""

    kept = index.get(words.request().key)
    assert kept is not None
    assert "s3cr3t" not in kept
    assert recalled(words, index).reserve().parent.name == "s3cr3t-enough"


@pytest.mark.parametrize("number", ["8", "true"])
def test_short_numbers_from_variables_are_kept(
    number: str, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QD_ONE", number)
    words = Words(overrides=("+model.args={a: '${oc.decode:${oc.env:QD_ONE}}'}",))

    assert keep(words, index) == ""
    assert told(recalled(words, index)) == fresh(words)


def test_what_other_code_registers_is_not_kept(index: Index) -> None:
    node = {"defaults": ["digits", "_self_"], "name": "stored"}
    store = ConfigStore.instance()
    store.store(group="model", name="stored", node=node, provider="other")
    try:
        assert "model/stored.yaml is registered by code" in keep(
            Words(overrides=("model=stored",)), index
        )
        assert keep(Words(), index) == ""
    finally:
        store.repo["model"].pop("stored.yaml")


def test_warnings_that_are_not_shown_are_remembered_apart(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(Words(), index)
    monkeypatch.setattr(sys, "warnoptions", [*sys.warnoptions, "ignore"])

    assert gone(Words(), index)


@pytest.mark.parametrize("multirun", [False, True])
def test_a_text_that_looks_like_our_mark_is_not_kept(multirun: bool, index: Index) -> None:
    words = Words(overrides=(f"experiment.description={HERE}",), multirun=multirun)

    assert "marks something" in keep(words, index)


def test_a_shuffled_sweep_is_not_kept(index: Index) -> None:
    words = Words(overrides=("precision=shuffle(fp32,fp16)",), multirun=True)

    assert "shuffle" in keep(words, index)


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


@pytest.mark.parametrize("verbose", [1, None, ["orchestrate", 2]])
def test_what_names_no_loggers(verbose: object) -> None:
    with pytest.raises(ConfigError, match="names of loggers") as caught:
        configure({"root": None}, verbose)
    assert caught.value.where == "hydra.verbose"


def test_a_user_without_a_home_directory_names_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "~")  # what Path.home() gives up on, as without a passwd entry
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    session = Session(Console(quiet=True), Options())

    with pytest.raises(ConfigError, match="no such file"):  # not a word about the store
        run_remembering(
            session, ["cache.dir=store", "model.checkpoint.path=missing.pt"], multirun=False
        )
    with pytest.raises(StoreError, match="no home directory"):
        run_remembering(session, [], multirun=False)


def test_hydra_is_left_as_it_was(index: Index) -> None:
    keep(Words(), index)
    with pytest.raises(OrchestrateError):
        keep(Words(overrides=("model=none_like_it",)), index)

    assert SourcesRegistry.instance().types["file"].__name__ == FileConfigSource.__name__
    assert BaseContainer._resolvers["oc.env"].__qualname__.startswith("OmegaConf.")


_RECALL = """
import json, sys
from contextlib import ExitStack
from pathlib import Path
from orchestrator.config.remembered import Request, recall
from orchestrator.store.index import Index
found = recall(Request.of(["precision=fp16"]), Index(Path(sys.argv[1])), ExitStack())
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
