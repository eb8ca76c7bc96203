from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file

from orchestrator.config.data import ArrayData
from orchestrator.config.schema import Model
from orchestrator.examples import digits
from orchestrator.examples.digits import train
from orchestrator.examples.digits.model import DigitsNet
from orchestrator.locations import bundled, resolve

FOLDER = Path(digits.__file__).parent


@pytest.fixture(scope="module")
def config() -> Model:
    return Model.model_validate(
        OmegaConf.to_container(OmegaConf.load(bundled("conf") / "model/digits.yaml"))
    )


def test_shipped_weights_classify_the_held_out_images_as_the_readme_says(config: Model) -> None:
    assert config.checkpoint is not None
    assert isinstance(config.samples, ArrayData)
    assert config.task is not None
    model = DigitsNet(**config.args)
    model.load_state_dict(load_file(resolve(config.checkpoint.path, Path())))
    with np.load(FOLDER / "data.npz", allow_pickle=False) as data:
        images = torch.from_numpy(data["test_images"]).float() * config.samples.scale
        labels = torch.from_numpy(data["test_labels"])
    assert len(images) == config.task.count >= 360
    reached = train.accuracy(model.eval(), images, labels)
    assert reached > 0.98
    assert f"{100 * reached:.2f} %" in (FOLDER / "README.md").read_text()


def test_no_held_out_image_was_trained_on() -> None:
    with np.load(FOLDER / "data.npz", allow_pickle=False) as data:
        seen = {image.tobytes() for image in data["train_images"]}
        held_out = {image.tobytes() for image in data["test_images"]}
    assert (len(seen), len(held_out)) == (1397, 400)
    assert not seen & held_out


def test_shipped_data_are_what_the_training_script_makes() -> None:
    pytest.importorskip("sklearn")
    made = train.load()
    with np.load(FOLDER / "data.npz", allow_pickle=False) as data:
        assert sorted(data.files) == sorted(made)
        for name, array in made.items():
            np.testing.assert_array_equal(data[name], array)
            assert data[name].dtype == array.dtype


def test_distortion_keeps_most_ink_and_depends_on_chance() -> None:
    torch.manual_seed(0)
    images = torch.zeros(64, 1, 8, 8)
    images[:, :, 2:6, 2:6] = 1.0
    moved = train.distort(images)
    assert moved.shape == images.shape
    assert (moved.sum((1, 2, 3)) > 8).all()
    assert not torch.allclose(moved[0], moved[1])
