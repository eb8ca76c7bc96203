"""Matrices: declared ones, ``exclude`` and ``include``, what they report, what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.types import RunMode

from orchestrator.config.batch import Batch, BatchTask, VariantReturn
from orchestrator.config.compose import Composer
from orchestrator.config.matrix import Matrix, read_matrix
from orchestrator.config.typed import composition
from orchestrator.errors import ConfigError
from orchestrator.locations import bundled
from tests.command import Workplace
from tests.config.compose import write_conf

EXPERIMENT = """\
# @package _global_
defaults: [{override /model: digits}]
hydra:
  sweeper:
    params:
      precision: [fp32, fp16, int8]
      exporter.opset: 18,20
    exclude:
      - {precision: int8, exporter.opset: 20}
      - {precision: fp16, exporter.opset: "20"}
    include:
      - {precision: fp32, exporter.opset: 18, benchmark: none}
      - {precision: int8, calibration: entropy, exporter.opset: 22}
"""
SIX = ("precision=fp32,fp16,int8", "exporter.opset=18,20")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def batches(*overrides: str, multirun: bool = True) -> list[Batch]:
    """Return what *overrides* compose to; nothing is planned and no directory made."""
    found: list[Batch] = []

    def keep(batch: Batch) -> list[VariantReturn]:
        found.append(batch)
        return [VariantReturn(passed=True) for _ in batch.variants]

    with Composer() as composer:
        composer.run(list(overrides), BatchTask(run=keep, dry=True), multirun=multirun)
    return found


def variants(*overrides: str) -> list[str]:
    """Return the overrides of each variant of a sweep, as one text each."""
    (batch,) = batches(*overrides)
    return [" ".join(variant.overrides) for variant in batch.variants]


def matrix(*overrides: str, multirun: bool = True) -> Matrix:
    """Return the matrix of a sweep."""
    (batch,) = batches(*overrides, multirun=multirun)
    assert batch.matrix is not None
    return batch.matrix


def refused(*overrides: str, multirun: bool = True) -> ConfigError:
    """Return the error of a sweep."""
    with pytest.raises(ConfigError) as caught:
        batches(*overrides, multirun=multirun)
    return caught.value


Read = Callable[[str, str], Matrix]


@pytest.fixture(scope="module")
def read() -> Read:
    """Reads overrides (separated by spaces) and the YAML of ``hydra.sweeper``, composed once."""
    with Composer():  # registers our plugins
        loader = ConfigLoaderImpl(create_config_search_path(str(bundled("conf"))))
        cfg = loader.load_configuration("orchestrate", [], RunMode.MULTIRUN)
    return lambda words, text: read_matrix(yaml.safe_load(text), words.split("; "), cfg, loader)


def test_without_rules_it_is_the_product() -> None:
    assert variants("model=digits", "precision=fp32,int8", "exporter.opset=range(18,20)") == [
        "model=digits precision=fp32 exporter.opset=18",
        "model=digits precision=fp32 exporter.opset=19",
        "model=digits precision=int8 exporter.opset=18",
        "model=digits precision=int8 exporter.opset=19",
    ]


def test_exclude_removes_what_has_all_pairs() -> None:
    rules = "hydra.sweeper.exclude=[{precision: int8, exporter.opset: 20}, {precision: fp16}]"

    assert variants(*SIX, rules) == [
        "precision=fp32 exporter.opset=18",
        "precision=fp32 exporter.opset=20",
        "precision=int8 exporter.opset=18",
    ]
    assert matrix(*SIX, rules).lines() == [
        "hydra.sweeper.exclude[0] (precision=int8, exporter.opset=20): 1 variant removed",
        "hydra.sweeper.exclude[1] (precision=fp16): 2 variants removed",
    ]


@pytest.mark.parametrize(
    ("override", "rule"),
    [
        ("exporter.opset=18,20", "exporter.opset: 20"),
        ("exporter.opset=18,20", "exporter.opset: '20'"),
        ("++exporter.opset=18,20", "exporter.opset: 20"),
        ("exporter.opset=18,20", "exporter.opset: 'range(19,25)'"),
        ("precision='fp32',\"int8\"", "precision: int8"),
        ("precision=fp32,int8", "precision: 'glob(int*)'"),
        ("simplifier.fuse_batch_norm=TRUE,false", "simplifier.fuse_batch_norm: no"),
        ("compare.fp32.snr_db=1e2,30", "compare.fp32.snr_db: 30"),
        ("compare.fp32.snr_db=30,1e2", "compare.fp32.snr_db: 100.0"),
        ("+model.args.sizes=[1,2],[3, 4]", "model.args.sizes: [3,4]"),
        ("experiment.name=a,null", "experiment.name: null"),
        ("experiment.name=a,b c", "experiment.name: b c"),
        ("experiment.name=a,'x,y'", "experiment.name: \"'x,y'\""),
    ],
)
def test_values_compare_as_hydra_writes_them(read: Read, override: str, rule: str) -> None:
    found = read(override, f"exclude: [{{{rule}}}]")
    (kept,) = found.variants

    assert [effect.removed for effect in found.effects] == [1]
    assert list(kept) == list(read(override, "{}").variants[0])


def test_include_extends_what_agrees_and_else_adds_one() -> None:
    rules = (
        "hydra.sweeper.include=[{precision: int8, calibration: entropy},"
        "{precision: bf16, target: tensorrt}, {+model.args.k: 1}]"
    )
    found = matrix("benchmark=none", "precision=fp32,int8", rules)

    assert found.variants == [
        ["benchmark=none", "precision=fp32", "+model.args.k=1"],
        ["benchmark=none", "precision=int8", "calibration=entropy", "+model.args.k=1"],
        ["benchmark=none", "precision=bf16", "target=tensorrt"],
    ]
    assert [(one.added, one.extended) for one in found.effects] == [(0, 1), (1, 0), (0, 2)]
    assert found.lines()[:2] == [
        "hydra.sweeper.include[0] (precision=int8, calibration=entropy): 1 variant extended",
        "hydra.sweeper.include[1] (precision=bf16, target=tensorrt): 1 variant added",
    ]


def test_a_later_include_replaces_what_an_earlier_one_added() -> None:
    rules = "hydra.sweeper.include=[{calibration: entropy},{precision: int8, calibration: minmax}]"

    assert variants("precision=fp32,int8", rules) == [
        "precision=fp32 calibration=entropy",
        "precision=int8 calibration=minmax",
    ]


def test_include_brings_back_what_exclude_removed() -> None:
    found = variants(
        "precision=fp32,int8",
        "hydra.sweeper.exclude=[{precision: int8}]",
        "hydra.sweeper.include=[{precision: int8, calibration: entropy}]",
    )

    assert found == ["precision=fp32", "precision=int8 calibration=entropy"]


def test_include_alone_lists_all_variants() -> None:
    rules = "hydra.sweeper.include=[{precision: fp32},{precision: int8, calibration: entropy}]"

    assert variants("benchmark=none", rules) == [
        "benchmark=none precision=fp32",
        "benchmark=none precision=int8 calibration=entropy",
    ]
    assert variants("precision=fp16", rules) == [
        "precision=fp32",
        "precision=int8 calibration=entropy",
    ]


@pytest.mark.parametrize(
    ("rules", "reason"),
    [
        ("exclude: [{model: minilm}]", "this sweep does not set model"),
        ("exclude: [{precision: int4}]", "precision is only fp32, fp16, int8"),
        (
            "exclude: [{precision: int8}, {precision: int8, exporter.opset: 18}]",
            "no combination that is left has all of it",
        ),
        ("include: [{precision: int8}]", "the matrix has it already"),
    ],
)
def test_a_rule_that_does_nothing_is_a_warning(read: Read, rules: str, reason: str) -> None:
    (warning,) = read("; ".join(SIX), rules).warnings()

    assert warning.endswith(f": matches nothing: {reason}")


@pytest.mark.parametrize(
    ("rules", "where", "says"),
    [
        ("exclude: [{precison: int8}]", "exclude[0]", "did you mean 'precision'?"),
        ("include: [{a: 1}]", "include[0]", "no group or field 'a'"),
        ("include: [{exporter.opst: 1}]", "include[0]", "did you mean 'exporter.opset'?"),
        ("exclude: [{hydra.run.dir: x}]", "exclude[0]", "set hydra.run.dir beside hydra.sweeper"),
        ("exclude: [{tool/chain: x}]", "exclude[0]", "no group or field 'tool/chain'"),
        ("exclude: [{precision: glob(*)}]", "exclude", "the rules leave none of 6 variants"),
        ("include: [{target: 'a,b'}]", "include[0]", "gives 2 values for 'target'"),
        ("exclude: int8", "exclude", "expected a list of rules"),
        ("exclude: {precision: int8}", "exclude", "expected a list of rules"),
        ("exclude: [int8]", "exclude[0]", "expected groups or fields with their values"),
        ("include: [{}]", "include[0]", "expected groups or fields with their values"),
        ("include: [{exporter: {opset: 18}}]", "include[0]", "write exporter.opset: VALUE"),
        ("include: [{precision: int8}, {target: '['}]", "include[1]", "is no override"),
    ],
)
def test_a_wrong_rule_is_refused(read: Read, rules: str, where: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read("; ".join(SIX), rules)

    assert caught.value.where == f"hydra.sweeper.{where}"
    assert says in caught.value.render()


def test_batches_have_a_size() -> None:
    error = refused(*SIX, "hydra.sweeper.max_batch_size=0")

    assert error.where == "hydra.sweeper.max_batch_size"
    assert "a whole number from 1" in error.message


@pytest.mark.parametrize(
    "override", ["exporter.opset=range(18,18)", "precision=glob(none*)", "precision=choice()"]
)
def test_an_empty_matrix_is_refused(override: str) -> None:
    error = refused(override)

    assert error.where == f"override '{override}'"


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("exporter.opset=interval(18,20)", "name the values"),
        ("exporter.opset=range(18,20,0)", "cannot be enumerated"),
        ("exporter.opset=range(0,1000000000)", "more than 10000 values"),
    ],
)
def test_values_that_are_no_list(override: str, says: str) -> None:
    error = refused(override)

    assert error.where == f"override '{override}'"
    assert says in error.render()


def test_more_combinations_than_anybody_means() -> None:
    error = refused("exporter.opset=range(0,1000)", "model.batches=range(0,1000)")

    assert "1000 × 1000 = 1000000 combinations are more than 10000" in error.message


def test_equal_variants_are_built_once() -> None:
    found = matrix(
        "precision=fp32,int8,fp32",
        "hydra.sweeper.include=[{precision: fp16},{precision: fp16}]",
    )

    assert found.variants == [["precision=fp32"], ["precision=int8"], ["precision=fp16"]]
    assert found.lines()[-1] == "2 of the variants given more than once: built once"


def test_batches_of_a_size_follow_the_rules() -> None:
    found = batches(
        *SIX, "hydra.sweeper.exclude=[{precision: int8}]", "hydra.sweeper.max_batch_size=3"
    )

    assert [[one.index for one in batch.variants] for batch in found] == [[0, 1, 2], [3]]
    assert [composition(batch).first for batch in found] == [True, False]


def test_an_experiment_s_matrix_needs_no_m(tmp_path: Path) -> None:
    write_conf(tmp_path, {"experiment/mine": EXPERIMENT})
    found = matrix("+experiment=mine", multirun=False)

    assert found.declared
    assert [" ".join(one[:-1]) for one in found.variants if "+experiment=mine" in one[-1]] == [
        "precision=fp32 exporter.opset=20",
        "precision=fp16 exporter.opset=18",
        "precision=int8 exporter.opset=18",
    ]
    assert found.variants[0][-1] == "benchmark=none"
    assert found.variants[-1] == [
        "+experiment=mine",
        "precision=int8",
        "calibration=entropy",
        "exporter.opset=22",
    ]
    assert found.lines()[0].endswith("so this is a sweep as with -m: 5 variants")
    assert not matrix("+experiment=mine", multirun=True).declared


def test_rules_without_parameters_declare_a_matrix_too(tmp_path: Path) -> None:
    rules = "hydra: {sweeper: {include: [{precision: fp32}, {precision: int8}]}}\n"
    write_conf(tmp_path, {"experiment/two": f"# @package _global_\n{rules}"})

    assert len(matrix("+experiment=two", multirun=False).variants) == 2


@pytest.mark.parametrize(
    ("section", "where", "says"),
    [
        ("{parms: {precision: 'fp32,int8'}}", "parms", "did you mean 'params'?"),
        ("{params: [precision]}", "params", "expected groups and fields"),
        ("{params: {precision: []}}", "params.precision", "the matrix is empty"),
        ("{params: {exporter: {opset: 18}}}", "params.exporter", "write exporter.opset: VALUES"),
    ],
)
def test_a_declaration_with_a_mistake(tmp_path: Path, section: str, where: str, says: str) -> None:
    text = f"# @package _global_\nhydra: {{sweeper: {section}}}\n"
    write_conf(tmp_path, {"experiment/wrong": text})
    error = refused("+experiment=wrong", multirun=False)

    assert error.where == f"hydra.sweeper.{where}"
    assert says in error.render()


def test_the_command_says_what_the_matrix_did(tmp_path: Path) -> None:
    place = Workplace.at(tmp_path / "place")
    write_conf(place.directory, {"experiment/mine": EXPERIMENT})
    warned = "hydra.sweeper.exclude=[{model: minilm}]"
    planned = place.run("plan", "+experiment=mine", "precision=fp32,int8", warned)

    assert planned.code == 0, planned.text
    assert "declares a matrix" in planned.out.splitlines()[0]
    assert "(precision=fp32, exporter.opset=18, benchmark=none): 1 variant extended" in planned.out
    assert "warning: hydra.sweeper.exclude[0] (model=minilm): matches nothing" in planned.out
    assert "5 variants: " in planned.out
    assert not (place.directory / "outputs").exists()


def test_an_error_leaves_no_directory(tmp_path: Path) -> None:
    place = Workplace.at(tmp_path / "place")
    ran = place.run("-m", "precision=fp32,int8", "hydra.sweeper.exclude=[{precision: 'glob(*)'}]")

    assert (ran.code, ran.out) == (2, "")
    assert ran.err.splitlines()[0] == (
        "error: hydra.sweeper.exclude: the rules leave none of 2 variants"
    )
    assert not (place.directory / "outputs").exists()


def test_a_secret_in_a_rule_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "s3cr3t-enough")
    error = refused("precision=fp32,int8", "hydra.sweeper.exclude=[{'${oc.env:TOKEN}': 1}]")

    assert "s3cr3t" not in error.render()


def test_names_that_files_cannot_tell_apart_get_a_digest(tmp_path: Path) -> None:
    place = Workplace.at(tmp_path / "place")
    words = ("plan", "--json", "-m", "+model.args.k=a/b,a_b,c")
    names = place.run(*words).json()["variants"]

    assert len(set(names)) == 3
    assert [name.startswith("model.args.k=a_b-") for name in names] == [True, True, False]
    assert names[2] == "model.args.k=c"
