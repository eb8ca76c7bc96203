from __future__ import annotations

import importlib.util
import subprocess
import sys

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from orchestrator.config.data import CallableData
from orchestrator.config.schema import Model
from orchestrator.errors import StageError
from orchestrator.examples.minilm import package
from orchestrator.examples.minilm.data import read_lines, sentences
from orchestrator.locations import bundled

pytestmark = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in package.NEEDED),
    reason="the package with the weights (extra dev) is not installed",
)

SENTENCES = read_lines("sentences.txt")


@pytest.fixture(scope="module")
def encoder() -> torch.nn.Module:
    from orchestrator.examples.minilm.model import sentence_encoder

    torch.set_num_threads(2)
    return sentence_encoder()


def embed(encoder: torch.nn.Module, count: int, length: int) -> np.ndarray:
    batch = sentences(dims={"batch": count, "length": length}, offset=0, seed=0)
    with torch.inference_mode():
        embedded: torch.Tensor = encoder(**{k: torch.from_numpy(v) for k, v in batch.items()})
    return embedded.numpy()


@pytest.mark.slow
def test_embeddings_equal_those_of_sentence_transformers(encoder: torch.nn.Module) -> None:
    pytest.importorskip("sentence_transformers")
    from sentence_transformers import SentenceTransformer

    theirs = SentenceTransformer(str(package.model_folder()), device="cpu")
    theirs.max_seq_length = 128
    expected = theirs.encode(SENTENCES[:64], convert_to_numpy=True, show_progress_bar=False)
    np.testing.assert_allclose(embed(encoder, 64, 128), expected, atol=1e-5)


def test_padding_does_not_change_an_embedding(encoder: torch.nn.Module) -> None:
    np.testing.assert_allclose(embed(encoder, 8, 32), embed(encoder, 8, 64), atol=1e-6)


def test_each_task_sentence_has_a_nearest_neighbour_that_rounding_cannot_change(
    encoder: torch.nn.Module,
) -> None:
    task = config().task
    assert task is not None
    assert 64 <= task.count <= len(SENTENCES)
    embedded = embed(encoder, task.count, config().dims["length"].opt)
    similar = embedded @ embedded.T
    np.fill_diagonal(similar, -1.0)
    first, second = np.sort(similar, axis=1)[:, :-3:-1].T
    assert (first - second).min() > 1e-4


def config() -> Model:
    return Model.model_validate(
        OmegaConf.to_container(OmegaConf.load(bundled("conf") / "model/minilm.yaml"))
    )


def test_sentences_are_many_and_different_and_calibration_uses_others() -> None:
    calibration = config().calibration
    assert isinstance(calibration, CallableData)
    others = read_lines(calibration.args["file"])
    assert len(set(SENTENCES)) == len(SENTENCES) >= 128
    assert len(set(others)) == len(others) >= 128
    assert not set(SENTENCES) & set(others)


def test_masks_cover_the_tokens_and_nothing_else() -> None:
    batch = sentences(dims={"batch": len(SENTENCES), "length": 32}, offset=0, seed=0)
    ids, mask = batch["input_ids"], batch["attention_mask"]
    assert ids.dtype == mask.dtype == np.int64
    assert ids.shape == mask.shape == (len(SENTENCES), 32)
    lengths = mask.sum(axis=1)
    np.testing.assert_array_equal(mask, np.arange(32) < lengths[:, None])
    np.testing.assert_array_equal(ids != 0, mask == 1)
    assert (ids[:, 0] == 101).all()  # [CLS]
    assert (ids[np.arange(len(ids)), lengths - 1] == 102).all()  # [SEP], also after a cut
    assert lengths.min() < 8
    assert lengths.max() == 32


def test_batches_are_successive_items_of_one_order() -> None:
    whole = sentences(dims={"batch": 6, "length": 16}, offset=0, seed=3)["input_ids"]
    tail = sentences(dims={"batch": 2, "length": 16}, offset=4, seed=3)["input_ids"]
    np.testing.assert_array_equal(whole[4:], tail)
    again = sentences(dims={"batch": 6, "length": 16}, offset=len(SENTENCES), seed=3)["input_ids"]
    np.testing.assert_array_equal(whole, again)
    unshuffled = sentences(dims={"batch": 6, "length": 16}, offset=0, seed=0)["input_ids"]
    assert (whole != unshuffled).any()


def test_a_file_without_sentences_is_refused(tmp_path_factory: pytest.TempPathFactory) -> None:
    empty = tmp_path_factory.mktemp("text") / "empty.txt"
    empty.write_text("# nothing\n\n")
    with pytest.raises(StageError, match="has no sentence"):
        sentences(dims={"batch": 1, "length": 8}, offset=0, seed=0, file=str(empty))


def test_a_missing_package_is_named_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package, "NEEDED", ("a_package_nobody_has",))
    with pytest.raises(StageError) as caught:
        package.model_folder()
    assert "a-package-nobody-has" in caught.value.message
    assert caught.value.hint == "pip install 'orchestrate[dev]'"


def test_sentences_need_neither_transformers_nor_torch() -> None:
    code = (
        "import sys; from orchestrator.examples.minilm.data import sentences; "
        "sentences(dims={'batch': 1, 'length': 8}, offset=0, seed=0); "
        "assert not {'torch', 'transformers', 'sentence_transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
