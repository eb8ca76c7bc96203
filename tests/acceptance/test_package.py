"""``orchestrate package``: complete without the store, and only of what passed."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.acceptance.conftest import QUICK, Site
from tests.command import Workplace

# Runs the package's model on the packaged samples and compares with what PyTorch gave.
_CHECK = """
import json, sys
from pathlib import Path
import numpy as np
import onnxruntime
from orchestrator.numerics.batches import read_batch, read_index
root = Path(sys.argv[1])
worst, count = 0.0, 0
for folder in ("model", "onnx"):
    (model,) = [*(root / folder).glob("*.onnx"), *(root / folder).glob("*.ort")]
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    for given, wanted in zip(read_index(root / "samples"), read_index(root / "expected")):
        feed = read_batch(root / "samples", given)
        names = {port.name for port in session.get_inputs()}
        (found,) = session.run(None, {k: v for k, v in feed.items() if k in names})
        (expected,) = read_batch(root / "expected", wanted).values()
        assert found.shape == expected.shape and expected.std() > 0
        worst = max(worst, float(np.abs(found - expected).max() / expected.std()))
        count += 1
print(json.dumps([worst, count]))
"""


def test_a_package_is_complete_without_the_store(
    demo: Site, copy_of: Callable[[Site], Workplace]
) -> None:
    place = copy_of(demo)
    built = place.build("precision=fp32", *QUICK)
    (variant,) = built.variants
    target = place.directory / "taken" / "digits"
    made = place.run("package", variant["directory"], "--to", str(target))
    shutil.rmtree(place.store)
    checked = subprocess.run(
        [sys.executable, "-c", _CHECK, str(target)], capture_output=True, text=True, check=True
    )
    worst, count = json.loads(checked.stdout)

    assert made.code == 0, made.text
    assert worst < 1e-4
    assert count >= 12
    assert not [path for path in target.rglob("*") if path.is_symlink()]
    assert {"manifest.json", "config.yaml", "SHA256SUMS"} <= {p.name for p in target.iterdir()}
    for line in (target / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((target / name).read_bytes()).hexdigest() == digest


def test_a_failed_variant_is_not_packaged(gallery: Site) -> None:
    directory = gallery.built.variant("model=constant")["directory"]
    target = gallery.place.directory / "bad"
    ran = gallery.place.run("package", directory, "--to", str(target))

    assert ran.code == 1
    assert "failed, so it is not packaged as good" in ran.err
    assert not target.exists()


def test_a_damaged_artifact_is_not_packaged(
    demo: Site, copy_of: Callable[[Site], Workplace]
) -> None:
    place = copy_of(demo)
    (variant,) = place.build("precision=fp16", *QUICK).variants
    (model,) = (Path(variant["directory"]) / "artifacts" / "onnx").resolve().glob("model.onnx")
    model.chmod(0o644)
    model.write_bytes(model.read_bytes()[:-1] + b"\0")
    ran = place.run("package", variant["directory"], "--to", "bad")

    assert ran.code == 1
    assert "changed model.onnx" in ran.err
    assert "Traceback" not in ran.text
    assert not (place.directory / "bad").exists()


def test_what_is_there_is_not_overwritten(demo: Site) -> None:
    directory = demo.built.variant("precision=fp32")["directory"]
    ran = demo.place.run("package", directory, "--to", ".")

    assert ran.code == 2
    assert "is there already" in ran.err


def test_a_directory_that_is_no_experiment(demo: Site) -> None:
    ran = demo.place.run("package", ".", "--to", "bad")

    assert ran.code == 1
    assert "no manifest.json" in ran.err


def test_the_configuration_is_found_where_hydra_put_it(
    demo: Site, copy_of: Callable[[Site], Workplace]
) -> None:
    place = copy_of(demo)
    (variant,) = place.build("precision=fp32", "hydra.output_subdir=used", *QUICK).variants
    made = place.run("package", variant["directory"], "--to", "taken")

    assert made.code == 0, made.text
    composed = Path(variant["directory"]) / "used" / "config.yaml"
    assert (place.directory / "taken" / "config.yaml").read_bytes() == composed.read_bytes()
