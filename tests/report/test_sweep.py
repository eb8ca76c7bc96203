"""The combined manifest of a sweep, and what is printed about its rules."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import OrchestrateError
from orchestrator.report.manifest import read_manifest
from tests.command import Workplace
from tests.config.compose import write_conf

MODEL = """\
name: mine
onnx: net.onnx
inputs: {x: {dtype: float32, shape: [batch, 4]}}
outputs: [y]
dims: {batch: {min: 1, opt: 2, max: 4}}
samples: {kind: generator}
"""


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, dict[str, Any]]:
    """The directory of a sweep over a broken model, what was printed, and its manifest."""
    place = Workplace.at(tmp_path_factory.mktemp("swept"))
    write_conf(place.directory, {"model/mine": MODEL})
    (place.directory / "net.onnx").write_bytes(b"broken")
    ran = place.run(
        *("-m", "model=mine", "benchmark=none", "experiment.description=a/b,a_b"),
        *("hydra.sweep.dir=outputs/swept", "hydra.sweeper.max_batch_size=1"),
        "hydra.sweeper.exclude=[{calibration: '${oc.env:TOKEN}'}]",
        env={"TOKEN": "s3cr3t-enough"},
    )
    assert ran.code == 1, ran.text
    directory = place.directory / "outputs" / "swept"
    return directory, ran.text, json.loads((directory / "manifest.json").read_text())


def test_the_combined_manifest_has_all_variants(
    swept: tuple[Path, str, dict[str, Any]],
) -> None:
    directory, _, manifest = swept

    assert (manifest["schema"], manifest["kind"], manifest["status"]) == (1, "sweep", "failed")
    assert manifest["counts"] == {
        "combinations": 2,
        "collapsed": 0,
        "variants": 2,
        "passed": 0,
        "failed": 2,
        "interrupted": 0,
    }
    for entry, last in zip(manifest["variants"], ("a/b", "a_b"), strict=True):
        own = json.loads((directory / entry["directory"] / "manifest.json").read_text())
        assert entry["overrides"][-1] == f"experiment.description={last}"
        for name in ("name", "overrides", "status", "failures", "summary"):
            assert entry[name] == own[name]


def test_rules_hide_secrets_everywhere(swept: tuple[Path, str, dict[str, Any]]) -> None:
    directory, printed, manifest = swept
    (rule,) = manifest["rules"]

    assert rule["pairs"]["calibration"][0].startswith("<env TOKEN sha256:")
    assert printed.count("matches nothing") == 1
    texts = [path.read_text() for path in directory.rglob("*") if path.is_file()]
    assert len(texts) > 5
    assert not any("s3cr3t" in text for text in [printed, *texts])


def test_a_sweep_is_no_experiment(swept: tuple[Path, str, dict[str, Any]]) -> None:
    directory, _, manifest = swept
    with pytest.raises(OrchestrateError, match="a sweep with 2 variants") as caught:
        read_manifest(directory)

    assert manifest["variants"][0]["directory"] in caught.value.hint
