"""Fields that enter keys take no value from a resolver that gives another one next time."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from orchestrator.config.purity import (
    check_purity,
    environment,
    environment_names,
    environment_of,
)
from orchestrator.errors import ConfigError
from tests.config.compose import checked, refusal, write_conf


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("model.name=${now:%H}", "model.name"),
        ("model.name=a_${now:%H}_b", "model.name"),
        ("model.name=${hydra:job.num}", "model.name"),
        ("model.name='${oc.decode:${now:%H}}'", "model.name"),
        ("+model.args.size=${now:%H}", "model.args.size"),
        ("precision.keep_nodes=[a,'${hydra:job.num}']", "precision.keep_nodes.1"),
        ("toolchain.name=${now:%H}", "toolchain.name"),
        ("profile.name=${random_name:}", "profile.name"),
    ],
)
def test_an_impure_resolver_in_a_keyed_field(override: str, key: str) -> None:
    error = refusal(override)

    assert error.where == key
    assert "write the value itself" in error.hint


@pytest.mark.parametrize(
    "chain",
    [
        "${experiment.description}",
        "${.args.through}",
        "${..experiment.description}",
        "${experiment[description]}",
    ],
)
def test_through_other_fields(chain: str) -> None:
    cfg = OmegaConf.create(
        {
            "model": {"name": chain, "args": {"through": "${experiment.description}"}},
            "experiment": {"description": "at ${now:%H}"},
        }
    )
    with pytest.raises(ConfigError, match=r"\$\{now:\.\.\.\}"):
        check_purity(cfg)


def test_a_circle_ends() -> None:
    cfg = OmegaConf.create({"model": {"a": "${model.b}", "b": "${model.a}"}})

    check_purity(cfg)


def test_fields_outside_keys_are_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SALT", "a")
    config = checked(
        "experiment.description=${now:%H}",
        "cache.salt=${oc.env:SALT}",
        "model.name=${profile.name}",
    )

    assert config.model.name == "declared"
    assert config.experiment.description.isdecimal()


def test_an_impure_field_of_a_file(tmp_path: Path) -> None:
    write_conf(
        tmp_path, {"precision/mine": "defaults: [fp16, _self_]\nkeep_nodes: ['${now:%S}']\n"}
    )

    assert refusal("precision=mine").where == "precision.keep_nodes.0"


def test_environment_names_are_found_everywhere() -> None:
    cfg = OmegaConf.create(
        {
            "model": {"args": [{"token": "${oc.env:TOKEN}"}, "${oc.env:OTHER,none}"]},
            "cache": {"salt": "${ oc.env : SALT }", "dir": "plain"},
        }
    )

    assert environment_names(cfg) == {"TOKEN", "OTHER", "SALT"}


@pytest.mark.parametrize(
    "text",
    [
        "${oc.select:hydra.run.dir}",
        "${oc.select:'hydra.run.dir',none}",
        "${oc.select:experiment.description}",
        "${oc.select:..experiment.description}",
        "${oc.dict.values:hydra.runtime}",
        "${oc.select:${experiment.name}}",
        "${hydra.job.num}",
    ],
)
def test_a_resolver_that_takes_a_key_is_followed(text: str) -> None:
    cfg = OmegaConf.create(
        {
            "model": {"name": text},
            "experiment": {"description": "${now:%H}", "name": "hydra.job.num"},
        }
    )
    with pytest.raises(ConfigError, match="takes its value from"):
        check_purity(cfg)


def test_selecting_a_pure_field_is_free() -> None:
    check_purity(
        OmegaConf.create({"model": {"name": "${oc.select:profile.name}"}, "profile": {"name": "a"}})
    )


def test_the_salt_is_in_every_key() -> None:
    cfg = OmegaConf.create({"cache": {"salt": "${now:%S}", "dir": "${now:%S}"}})
    with pytest.raises(ConfigError, match="another value at every run") as caught:
        check_purity(cfg)
    assert caught.value.where == "cache.salt"


def test_variables_are_in_one_order_and_found_through_fields(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values = {"B": "same", "A": "same", "LONG": "longer", "GONE": ""}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    cfg = OmegaConf.create(
        {
            "model": {"name": "${oc.select:experiment.name}", "args": {"k": "${..batches}"}},
            "experiment": {"name": "x${oc.env:LONG}${oc.env:GONE}${oc.env:A}${oc.env:B}"},
        }
    )

    assert list(environment([cfg])) == ["LONG", "A", "B", "GONE"]
    assert set(environment_of(cfg, "model.name")) == set(values)
    assert environment_of(cfg, "model.args.k") == []
