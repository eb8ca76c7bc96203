"""What is in a key, and what is not."""

from __future__ import annotations

import functools
import json
import os
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest

from orchestrator.locations import resolve
from orchestrator.store import digests
from tests.plan.variants import keys, plan, pretended

GOLDEN = Path(__file__).parent / "golden" / "digits.json"
SWEEP = ("precision=fp32,fp16,int8", "simplifier=none,onnxsim", "exporter=dynamo,torchscript")
ADVICE = f"""
The material of a key has changed: every user's cached results for it are disowned. If that is meant
(a stage's version was raised, a parameter added, the example's data edited), run this test once
with UPDATE_GOLDEN=1 and commit {GOLDEN.name}. If it is not meant, the change broke the cache.
"""


def materials() -> dict[str, Any]:
    """The material of every action of a small graph, without what differs between machines."""
    found: dict[str, Any] = {}
    with plan(*SWEEP, "benchmark=default") as planned:
        results = pretended(planned.graph.actions)
        roles = {
            step.action: step.role for variant in planned.graph.variants for step in variant.steps
        }
        for identity, action in planned.graph.actions.items():
            material = dict(planned.resolver.resolve(action, results).material)
            material["tools"] = sorted(material["tools"])
            material["machine"] = material["machine"] is not None
            key = digests.of_json("action", material)
            found[key] = {"role": roles[identity], "material": material}
    return dict(sorted(found.items(), key=lambda item: (item[1]["role"], item[0])))


def test_golden_keys() -> None:
    now = materials()
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.write_text(json.dumps(now, indent=1, sort_keys=False) + "\n")
    stored = json.loads(GOLDEN.read_text())
    for key, entry in stored.items():
        assert digests.of_json("action", entry["material"]) == key, f"{entry['role']}: hash changed"
    new = [entry for key, entry in now.items() if key not in stored]
    gone = [entry for key, entry in stored.items() if key not in now]
    assert (new, gone) == ([], []), ADVICE


def test_golden_materials_name_no_place_and_no_time() -> None:
    text = GOLDEN.read_text()
    assert len(text) > 5000
    for private in ("/", socket.gethostname(), "seconds", "created", "max_error", "workers"):
        assert private not in text, private


BASE = ("precision=int8",)
LOWERED = ("quantize", "build", "audit", "benchmark")


NO_KEY = (
    "compare.fp32.max_error=0.5",
    "compare.min_variation=0.5",
    "model.name=other",
    "executor.workers=1",
    "executor.timeout_s=1000",
    "cache.max_size_gib=1",
    "cache.dir=elsewhere",
    "benchmark.fresh=true",
    "hydra.run.dir=somewhere",
    "calibration.percentile=99",  # of a method that is not chosen
    "calibration.bins=64",
    "experiment.name=named",
)


@functools.cache
def usual(*overrides: str) -> dict[str, str]:
    """The keys of what most tests compare with; where it is computed changes nothing."""
    return keys(*overrides)


def test_what_enters_no_key() -> None:
    if keys(*BASE, *NO_KEY) != usual(*BASE):
        guilty = [override for override in NO_KEY if keys(*BASE, override) != usual(*BASE)]
        raise AssertionError(f"these change a key: {guilty}")


@pytest.mark.parametrize(
    ("override", "changed"),
    [
        ("cache.salt=again", set(keys_of := (
            "samples", "export", "simplify", "canonicalize", "reference", "run onnx", "judge onnx",
            "calibration data", "quantize", "run lowered", "judge lowered", "build", "run session",
            "judge session", "task data", "reference task", "run task", "score", "audit",
            "benchmark",
        ))),
        ("exporter.opset=19", {"export"}),
        ("simplifier.fuse_batch_norm=false", {"simplify"}),
        ("calibration.count=64", {"calibration data", "quantize"}),
        ("calibration=entropy", {"quantize"}),
        ("benchmark.threads=2", {"benchmark"}),
        ("model.batches=2", {"samples"}),
        ("model.task.count=100", {"task data"}),
        ("model.outputs=[other]", {
            "export", "reference", "run onnx", "judge onnx", "run lowered", "judge lowered",
            "run session", "judge session", "reference task", "run task",
        }),
        ("+profile.dims.batch={min:1,opt:8,max:64}", {"samples", "task data", "calibration data"}),
    ],
)  # fmt: skip
def test_what_enters_which_key(override: str, changed: set[str]) -> None:
    before, after = usual(*BASE), keys(*BASE, override)
    traced = after.pop("trace samples", before["samples"])
    assert traced == before["samples"], "a narrower profile is no new export"
    assert set(before) == set(after) == set(keys_of)
    assert {role for role in before if before[role] != after[role]} == changed


@pytest.mark.parametrize(
    ("precision", "override", "changes"),
    [
        ("fp16", "precision.per_channel=false", False),
        ("fp16", "precision.op_types=[Conv]", False),
        ("fp16", "precision.keep_op_types=[Conv]", True),
        ("int8", "precision.per_channel=false", True),
    ],
)
def test_a_precision_is_its_own_parameters(precision: str, override: str, changes: bool) -> None:
    role = "cast" if precision == "fp16" else "quantize"
    words = (f"precision={precision}",)
    assert (usual(*words)[role] != keys(*words, override)[role]) is changes


@pytest.mark.parametrize(
    ("calibration", "override", "changes"),
    [
        ("minmax", "calibration.bins=64", False),
        ("minmax", "calibration.percentile=99", False),
        ("entropy", "calibration.bins=64", True),
        ("entropy", "calibration.percentile=99", False),
        ("percentile", "calibration.bins=64", True),
        ("percentile", "calibration.percentile=99", True),
    ],
)
def test_a_calibration_is_its_own_parameters(
    calibration: str, override: str, changes: bool
) -> None:
    words = (*BASE, f"calibration={calibration}")
    assert (usual(*words)["quantize"] != keys(*words, override)["quantize"]) is changes


def test_the_torchscript_exporter_has_no_optimizer() -> None:
    words = ("exporter=torchscript",)
    assert keys(*words, "exporter.optimize=false") == usual(*words)
    assert keys("exporter.optimize=false") != usual()


def test_a_file_is_its_contents_wherever_it_lies(tmp_path: Path) -> None:
    weights = resolve("pkg://orchestrator.examples.digits/weights.safetensors", tmp_path)
    copy = tmp_path / "elsewhere.safetensors"
    shutil.copy(weights, copy)
    assert keys(f"model.checkpoint.path={copy}") == usual()
    data = bytearray(copy.read_bytes())
    data[-1] ^= 1
    copy.write_bytes(data)
    before, after = usual(), keys(f"model.checkpoint.path={copy}")
    changed = {role for role in before if before[role] != after[role]}
    assert changed == {"export", "reference", "reference task"}


def test_place_host_and_environment_enter_no_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = usual()
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    monkeypatch.setattr(socket, "gethostname", lambda: "other")
    for name in ("HOSTNAME", "USER", "HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "other"))
    assert keys() == before
