"""A small project, built several times into one store; tests look at what that left."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.command import Workplace

_BACKBONE = """\
import torch


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.head = torch.nn.Linear(4, 3)

    def forward(self, x):
        return torch.tanh(self.head(x)) * 2
"""
_BROKEN = """\
class Net:
    def __init__(self):
        raise RuntimeError("no weights for you")
"""
_MODEL = """\
name: {name}
factory: {module}:Net
inputs:
  x: {{dtype: float32, shape: [batch, 4]}}
outputs: [y]
dims:
  batch: {{min: 1, opt: 2, max: 4}}
samples: {{kind: generator}}
"""
_CHECKPOINT = "checkpoint: {path: net.pt}\n"


#: What ``net`` is built from; the TorchScript exporter takes less time than dynamo.
WORDS = ("model=net", "exporter=torchscript", "benchmark=none")


@dataclass(frozen=True, kw_only=True)
class Experiments:
    """A workplace and the experiment directories in it, in the order in which they were built.

    Attributes:
        place: Where all of it is.
        first: A sweep over two audits, in an empty store.
        edited: After an edit of ``backbone.py``.
        again: With nothing changed since.
        failed: A model whose factory fails.
    """

    place: Workplace
    first: Path
    edited: Path
    again: Path
    failed: Path


@pytest.fixture(scope="session")
def experiments(tmp_path_factory: pytest.TempPathFactory) -> Experiments:
    """The project; a test that changes something takes a copy."""
    place = Workplace.at(tmp_path_factory.mktemp("experiments"))
    models = place.directory / "conf" / "model"
    models.mkdir(parents=True)
    (models / "net.yaml").write_text(_MODEL.format(name="net", module="backbone") + _CHECKPOINT)
    (models / "broken.yaml").write_text(_MODEL.format(name="broken", module="broken"))
    (place.directory / "broken.py").write_text(_BROKEN)
    backbone, weights = place.directory / "backbone.py", place.directory / "net.pt"
    backbone.write_text(_BACKBONE)
    save_weights(weights)
    words = WORDS
    place.build("-m", *words, "audit=default,strict", "hydra.sweep.dir=outputs/first")
    backbone.write_text(_BACKBONE.replace("* 2", "* 3"))
    place.build(*words, "hydra.run.dir=outputs/edited")
    place.build(*words, "hydra.run.dir=outputs/again")
    place.build("model=broken", "benchmark=none", "hydra.run.dir=outputs/failed")
    outputs = place.directory / "outputs"
    return Experiments(
        place=place,
        first=outputs / "first",
        edited=outputs / "edited",
        again=outputs / "again",
        failed=outputs / "failed",
    )


def save_weights(path: Path) -> None:
    """Write a checkpoint of ``net`` with random weights."""
    import torch

    state = torch.nn.Linear(4, 3).state_dict()
    torch.save({f"head.{name}": value for name, value in state.items()}, path)
