"""What ``samples`` is told of data in NumPy files: names and digests, never paths."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter

from orchestrator.backends.base import Site
from orchestrator.config.compose import Composer
from orchestrator.config.data import ArrayData, Data
from orchestrator.config.typed import typed
from orchestrator.plan.chain import add_variant
from orchestrator.plan.graph import Action, Graph, Variant
from orchestrator.plan.inputs import Files
from orchestrator.store.index import Index


def test_npy_files_are_declared_by_name(tmp_path: Path) -> None:
    action = _samples(tmp_path, labels=True)
    told = TypeAdapter(Data).validate_python(action.params["data"])  # as the stage does
    assert isinstance(told, ArrayData)
    assert set(told.arrays) == {"image"}
    assert told.labels is not None
    assert set(action.files) == {"data.image", "labels"}
    assert str(tmp_path) not in json.dumps(action.params)


def test_npy_without_labels_has_none(tmp_path: Path) -> None:
    action = _samples(tmp_path, labels=False)
    told = TypeAdapter(Data).validate_python(action.params["data"])
    assert isinstance(told, ArrayData)
    assert told.labels is None
    assert set(action.files) == {"data.image"}


def _samples(folder: Path, *, labels: bool) -> Action:
    np.save(folder / "images.npy", np.zeros((4, 1, 8, 8), dtype=np.float32))
    np.save(folder / "labels.npy", np.zeros(4, dtype=np.int64))
    data = ArrayData(
        kind="npy",
        arrays={"image": str(folder / "images.npy")},
        labels=str(folder / "labels.npy") if labels else None,
    )
    with Composer() as composer:
        config = typed(composer.primary())
    model = config.model.model_copy(update={"samples": data, "task": None})
    config = config.model_copy(update={"model": model})
    graph = Graph()
    variant = Variant(index=0, name="npy", config=config, overrides=[])
    index = Index(folder / "index")
    add_variant(graph, variant, Site(files=Files(folder, index), index=index))
    (found,) = [action for action in graph.actions.values() if action.stage == "samples"]
    return found
