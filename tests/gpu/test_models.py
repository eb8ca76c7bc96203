from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from orchestrator.numerics.metrics import Spread
from tests.gpu.models import (
    encoder,
    images,
    refresh_statistics,
    sentences,
    torchvision_model,
)


def variation(outputs: np.ndarray[Any, Any]) -> float:
    """Spread across items over the root mean square, as the judge has it."""
    spread = Spread()
    spread.add(outputs, len(outputs))
    value = spread.value()
    assert value is not None
    return value / float(np.sqrt(np.square(outputs, dtype=np.float64).mean()))


def test_a_picture_is_the_same_in_whichever_batch_it_is() -> None:
    alone = images(dims={"batch": 1}, offset=5, seed=2, size=28)["image"]
    among = images(dims={"batch": 8}, offset=0, seed=2, size=28)["image"]
    np.testing.assert_array_equal(alone[0], among[5])
    assert among.shape == (8, 3, 28, 28)
    assert among.dtype == np.float32
    assert len({picture.tobytes() for picture in among}) == 8


def test_other_seeds_give_other_pictures() -> None:
    one, two = (images(dims={"batch": 1}, offset=0, seed=seed, size=28) for seed in (2, 3))
    assert not np.array_equal(one["image"], two["image"])


def test_sentences_are_padded_and_masked() -> None:
    found = sentences(dims={"batch": 16}, offset=0, seed=2, length=32)
    ids, mask = found["input_ids"], found["attention_mask"]
    assert ids.dtype == mask.dtype == np.int64
    lengths = mask.sum(axis=1)
    assert lengths.min() >= 4
    assert len(set(lengths.tolist())) > 3
    assert (ids[mask == 0] == 0).all()
    assert (ids[mask == 1] > 0).all()


@pytest.fixture(scope="module")
def encoded() -> dict[bool, np.ndarray[Any, Any]]:
    """The outputs of a small encoder, by how its mask is made."""
    given = sentences(dims={"batch": 16}, offset=0, seed=2, length=32)
    tensors = [torch.from_numpy(given[name]) for name in ("input_ids", "attention_mask")]
    outputs = {}
    for plain_mask in (False, True):
        torch.manual_seed(0)
        module = encoder(layers=2, hidden=128, plain_mask=plain_mask)
        with torch.inference_mode():
            outputs[plain_mask] = module(*tensors).numpy()
    return outputs


def test_the_encoder_varies_over_its_inputs(encoded: dict[bool, np.ndarray[Any, Any]]) -> None:
    assert encoded[False].shape == (16, 128)
    assert variation(encoded[False]) > 0.05


def test_both_masks_mean_the_same(encoded: dict[bool, np.ndarray[Any, Any]]) -> None:
    np.testing.assert_allclose(encoded[True], encoded[False], atol=1e-5)


def test_padding_does_not_reach_the_output() -> None:
    given = sentences(dims={"batch": 4}, offset=0, seed=2, length=32)
    torch.manual_seed(0)
    module = encoder(layers=1, hidden=128)
    ids, mask = (torch.from_numpy(given[name]) for name in ("input_ids", "attention_mask"))
    with torch.inference_mode():
        before = module(ids, mask)
        after = module(torch.where(mask == 0, 17, ids), mask)
    torch.testing.assert_close(after, before)


def test_statistics_are_those_of_the_pictures() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    pictures = images(dims={"batch": 4}, offset=0, seed=1, size=28)["image"] * 3 + 1
    refresh_statistics(module, pictures)
    with torch.inference_mode():
        outputs = module.eval()(torch.from_numpy(pictures))
    torch.testing.assert_close(outputs.mean(dim=(0, 2, 3)), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(outputs.std(dim=(0, 2, 3)), torch.ones(4), atol=1e-2, rtol=0)


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("torchvision") is None,
    reason="torchvision is not installed: no build of it fits every build of PyTorch",
)
@pytest.mark.parametrize("name", ["resnet50", "vit_b_16"])
def test_torchvision_networks_vary_over_their_inputs(name: str) -> None:
    torch.manual_seed(0)
    module = torchvision_model(name)
    pictures = images(dims={"batch": 4}, offset=0, seed=2)["image"]
    with torch.inference_mode():
        outputs = module(torch.from_numpy(pictures)).numpy()
    assert outputs.shape == (4, 1000)
    assert variation(outputs) > 0.05
