"""``orchestrate explain``: experiments and future runs, in the terms of the configuration."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from orchestrator.plan.reasons import History, shortened
from orchestrator.store import digests
from orchestrator.store.results import Result
from orchestrator.store.store import Store
from tests.calling import call
from tests.cli.conftest import WORDS, Experiments, save_weights
from tests.command import Workplace


def _reasons(experiments: Experiments, directory: Path, *words: str) -> dict[str, Any]:
    ran = experiments.place.watch("explain", str(directory), "--json", *words)
    assert ran.code == 0, ran.text
    assert ran.heavy == []
    (found,) = ran.json()["experiments"]
    return {one["label"]: one for one in found["actions"]}


def test_the_first_build_had_nothing_to_compare_with(experiments: Experiments) -> None:
    ran = call(experiments.place, "explain", str(experiments.first), "--json")
    names = [one["name"] for one in ran.json()["experiments"]]
    actions = [one for found in ran.json()["experiments"] for one in found["actions"]]
    states = {one["state"] for one in actions}

    assert names == ["audit=default", "audit=strict"]
    assert states == {"ran", "shared"}
    for one in actions:
        first = "the first of its stage in this store"
        assert one["reason"] == first or one["state"] == "shared"


def test_an_edited_model_is_named_and_followed_downstream(experiments: Experiments) -> None:
    found = _reasons(experiments, experiments.edited)

    assert found["export"]["differences"] == ["model source changed: backbone.py"]
    assert found["reference"]["reason"] == "model source changed: backbone.py"
    assert found["simplify"]["reason"] == "its input 'onnx' changed (from export)"
    assert found["build"]["differences"] == ["its input 'onnx' changed (from canonicalize)"]
    assert found["samples"]["state"] == "cached"
    assert found["samples"]["reason"].startswith("the same key as what was built ")
    assert found["export"]["nearest"] not in (None, found["export"]["key"])


def test_a_new_checkpoint_is_named(experiments: Experiments, tmp_path: Path) -> None:
    place = experiments.place.copied(tmp_path)
    save_weights(place.directory / "net.pt")
    ran = place.run("explain", *WORDS, "--stage", "export", "--json")
    (found,) = ran.json()["actions"]

    assert found["state"] == "runs"
    assert found["reason"] == "weights of the checkpoint changed"


def test_a_hit_says_so(experiments: Experiments) -> None:
    found = _reasons(experiments, experiments.again)

    assert {one["state"] for one in found.values()} == {"cached"}
    assert {one["nearest"] for one in found.values()} == {None}


def test_a_failed_experiment_says_why(experiments: Experiments) -> None:
    found = _reasons(experiments, experiments.failed)

    assert found["reference"]["state"] in ("failed", "skipped")
    assert "no weights for you" in str([one["reason"] for one in found.values()])


def test_without_its_store_there_is_nothing_to_compare(
    experiments: Experiments, tmp_path: Path
) -> None:
    place = Workplace.at(tmp_path)
    shutil.copytree(
        experiments.edited, place.directory / "kept", ignore=shutil.ignore_patterns("artifacts")
    )
    ran = call(place, "explain", "kept", "--stage", "export")

    assert ran.code == 0
    assert "its result is not in the store any more" in ran.out
    assert not place.store.exists()


def test_overrides_are_explained_as_a_future_run(experiments: Experiments) -> None:
    words = (*WORDS, "exporter.opset=16")
    ran = experiments.place.watch("explain", *words, "--json")
    found = {one["label"].split(" · ")[0]: one for one in ran.json()["actions"]}

    assert (ran.code, ran.heavy) == (0, [])
    assert found["export"]["state"] == "runs"
    assert found["export"]["differences"] == ["exporter.opset 17 → 16"]
    assert found["simplify"]["reason"] == "needs the output of export"
    assert found["reference"]["state"] == "cached"


def test_explain_without_words_is_about_the_default_run(experiments: Experiments) -> None:
    ran = call(experiments.place, "explain", "--stage", "samples")

    assert ran.code == 0
    assert "runs" in ran.out
    assert "simplify" not in ran.out


def _broken(outputs: Path, name: str, text: str) -> None:
    (outputs / name).mkdir(parents=True)
    (outputs / name / "manifest.json").write_text(text)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("nowhere",), "nowhere: no such directory"),
        (("./empty",), "this is no experiment directory (it has no manifest.json)"),
        (("damaged",), "the manifest cannot be read"),
        (("newer",), "the manifest has schema 99"),
        (("listless",), "it lists no actions"),
        (("empty", "precision=fp16"), "to which no overrides belong"),
        (("empty", "-m"), "belong to overrides, not to a directory"),
        (("precision=fp16", "--stage", "exprot"), "did you mean 'export'?"),
        (("precision=fp61",), "fp16"),
    ],
)
def test_wrong_words_are_one_clear_message(
    tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    place = Workplace.at(tmp_path)
    (place.directory / "empty").mkdir()
    _broken(place.directory, "damaged", "{")
    _broken(place.directory, "newer", json.dumps({"schema": 99}))
    _broken(place.directory, "listless", json.dumps({"schema": 1}))
    ran = call(place, "explain", *words)

    assert ran.code == 2
    assert ran.err.startswith("error: ")
    assert message in ran.err
    assert "Traceback" not in ran.text


# What TensorRT and upgrades would leave, without having them: materials as the resolver makes them.


def _material(stage: str, **changes: Any) -> dict[str, Any]:
    known: dict[str, Any] = {
        "schema": 1,
        "stage": stage,
        "version": 1,
        "params": {},
        "inputs": {},
        "files": {},
        "tools": {},
        "machine": None,
        "salt": "",
    }
    return {**known, **changes}


def _put(store: Store, material: Mapping[str, Any], created: float = 1.0) -> None:
    result = Result(
        key=digests.of_json("action", material),
        stage=str(material["stage"]),
        material=material,
        outputs={},
        values={},
        created=created,
    )
    store.results.put(result, replace=False)


@pytest.mark.parametrize(
    ("stage", "old", "new", "expected"),
    [
        (
            "build",
            {"params": {"target": {"expect": {"tensorrt": "10.16"}}}},
            {"params": {"target": {"expect": {"tensorrt": "11.4"}}}},
            "target.expect.tensorrt 10.16 → 11.4",
        ),
        (
            "build",
            {"params": {"target": {"options": {"workspace_mib": 1}}}},
            {"params": {"target": {"options": {"workspace_mib": 2}}}},
            "target.workspace_mib 1 → 2",
        ),
        ("simplify", {"tools": {"onnx": "1.1"}}, {"tools": {"onnx": "1.2"}}, "onnx 1.1 → 1.2"),
        (
            "build",
            {"machine": {"model": "A", "flags": ["avx2"]}},
            {"machine": {"model": "B", "flags": ["avx2"]}},
            "another processor: A → B",
        ),
        (
            "samples",
            {"params": {"purpose": "calibration", "count": 8}, "files": {"data": "1"}},
            {"params": {"purpose": "calibration", "count": 9}, "files": {"data": "2"}},
            "calibration.count 8 → 9, the data of model.calibration changed",
        ),
        (
            "samples",
            {"params": {"purpose": "compare", "data": {"seed": 0}}, "files": {"data.x": "1"}},
            {"params": {"purpose": "compare", "data": {"seed": 1}}, "files": {"data.x": "2"}},
            "model.samples.seed 0 → 1, model.samples.arrays.x changed",
        ),
        (
            "export",
            {"params": {"args": {"width": 8}}, "files": {"file.0": "1"}},
            {"params": {"args": {"width": 9}}, "files": {"plugin.1": "1"}},
            "model.args.width 8 → 9, model.files[0] removed, target.plugins[1] added",
        ),
        ("export", {"salt": ""}, {"salt": "x"}, "cache.salt none → x"),
        ("score", {"version": 1}, {"version": 2}, "the stage's version 1 → 2"),
    ],
)
def test_differences_are_in_the_configurations_terms(
    tmp_path: Path, stage: str, old: dict[str, Any], new: dict[str, Any], expected: str
) -> None:
    store = Store(tmp_path)
    _put(store, _material(stage, **old))

    nearest = History(store.results).nearest(_material(stage, **new))
    assert nearest is not None
    assert shortened(nearest.differences).startswith(expected)


def test_what_user_code_touched_is_compared_by_name(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first = _material("export")
    touched = {
        "modules": {"net": "1", "gone": "1"},
        "distributions": {"torch": "2.9 a", "numpy": "2.0 a"},
        "files": {"sizes.txt": "1"},
        "listings": {"plates": "1"},
        "environment": {"WIDTH": "1"},
    }
    after = {
        "modules": {"net": "2", "new": "1"},
        "distributions": {"torch": "2.10 b", "numpy": "2.0 b"},
        "files": {"sizes.txt": "2"},
        "listings": {"plates": "2"},
        "environment": {"WIDTH": "2"},
    }
    origins: dict[str, Any] = {"origins": {}, "absent": []}
    places = {"net": "lib/net.py", "gone": "gone.py"}
    store.results.observe(
        digests.of_json("action", first), {**touched, **origins, "places": places}
    )
    _put(store, {**first, "observed": touched})
    nearest = History(store.results).nearest({**first, "observed": after})

    assert nearest is not None
    assert set(nearest.differences) == {
        "model source changed: lib/net.py",
        "model source removed: gone.py",
        "model source added: new",
        "torch 2.9 → 2.10",
        "numpy reinstalled with other contents",
        "the file sizes.txt changed",
        "the directory plates has other files in it",
        "the environment variable WIDTH changed",
    }


def test_the_nearest_differs_least_and_of_equals_is_the_newest(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for created, opset, optimize in ((1.0, 17, True), (3.0, 18, False), (2.0, 19, True)):
        exporter = {"opset": opset, "optimize": optimize}
        _put(store, _material("export", params={"exporter": exporter}), created)
    wanted = _material("export", params={"exporter": {"opset": 20, "optimize": True}})
    history = History(store.results)
    nearest, before = history.nearest(wanted), history.nearest(wanted, before=2.0)

    assert nearest is not None
    assert before is not None
    assert nearest.differences == ["exporter.opset 19 → 20"]
    assert before.differences == ["exporter.opset 17 → 20"]
    assert history.nearest(_material("cast")) is None
    assert history.nearest(wanted, before=0.5) is None
