"""The sentence encoder with its real weights: embeddings as PyTorch gives them, fp32 and int8."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.numerics.batches import read_batch, read_index
from tests.acceptance.conftest import Site
from tests.command import Workplace, action

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def minilm(tmp_path_factory: pytest.TempPathFactory) -> Site:
    place = Workplace.at(tmp_path_factory.mktemp("minilm"))
    words = ("-m", "model=minilm", "precision=fp32,int8", "compare=embedding", "benchmark=none")
    return Site(place=place, built=place.build(*words))


def embeddings(site: Site, manifest: dict[str, Any], role: str) -> np.ndarray[Any, Any]:
    """Return [sentences, 384] float32, of all batches of a step."""
    digest = action(manifest, role)["outputs"]["outputs"]
    root = site.place.store / "trees" / digest[:2] / digest
    return np.concatenate([read_batch(root, batch)["embedding"] for batch in read_index(root)])


def neighbours(vectors: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    similar = vectors @ vectors.T
    np.fill_diagonal(similar, -1)
    nearest: np.ndarray[Any, Any] = similar.argmax(1)
    return nearest


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_it_passes(minilm: Site, precision: str) -> None:
    manifest = minilm.built.variant(f"precision={precision}")

    assert manifest["status"] == "passed", manifest["failures"]
    assert Path(manifest["directory"]).is_dir()


def test_fp32_keeps_every_nearest_neighbour(minilm: Site) -> None:
    manifest = minilm.built.variant("precision=fp32")
    reference = embeddings(minilm, manifest, "reference task")
    artifact = embeddings(minilm, manifest, "run task")

    assert len(reference) >= 50
    assert np.abs(reference - artifact).max() < 1e-5
    assert (neighbours(reference) == neighbours(artifact)).all()
    assert len(set(neighbours(reference))) > 20  # they say something


def test_int8_stays_close(minilm: Site) -> None:
    manifest = minilm.built.variant("precision=int8")
    reference = embeddings(minilm, manifest, "reference task")
    artifact = embeddings(minilm, manifest, "run task")
    cosines = (reference * artifact).sum(1) / (
        np.linalg.norm(reference, axis=1) * np.linalg.norm(artifact, axis=1)
    )

    assert len(reference) >= 50
    assert cosines.min() > 0.95
    assert (neighbours(reference) == neighbours(artifact)).mean() > 0.9
    assert action(manifest, "quantize")["values"]["quantized"]["MatMul"] > 0
