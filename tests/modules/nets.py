"""Tiny modules that behave in one particular way each."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import nn


class Linear(nn.Module):
    """[batch, 4] float32 -> [batch, width] float32."""

    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.fc = nn.Linear(4, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.fc(x).relu()
        return result


class Wide(nn.Module):
    """[batch, 2048] float32 -> [batch, 2176] float32, with 17 MiB of weights."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(2048, 2176)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.fc(x)
        return result


class ConvNet(nn.Module):
    """[batch, 1, 8, 8] float32 -> logits [batch, 10], features [batch, 4]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 10)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = self.norm(self.conv(image)).relu().mean((2, 3))
        return self.head(features), features


class Encoder(nn.Module):
    """ids, mask [batch, length] int64 -> dict of state [batch, length, 4] and pooled [batch, 4]."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 4)
        self.norm = nn.LayerNorm(4)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
        state = self.norm(self.embed(ids))
        weight = mask.unsqueeze(-1).to(state.dtype)
        pooled = (state * weight).sum(1) / weight.sum(1).clamp(min=1)
        return {"state": state, "pooled": pooled}


class Attention(nn.Module):
    """A transformer's layer, whose evaluation torch fuses into one operator: [batch, 6, 8]."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)  # type: ignore[no-any-return]


class MaskUnused(nn.Module):
    """Takes two inputs and uses the second."""

    def forward(self, unused: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return x * 2 + 1


class Star(nn.Module):
    """Takes positional inputs only."""

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        return tensors[0] - 2 * tensors[1]


class FixedBatch(nn.Module):
    """Computes the batch size with int(), which a trace turns into a constant."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(int(x.shape[0]) * 2, 2)


class ThreeRows(nn.Module):
    """Works for one batch size only: a buffer of three rows is added."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("rows", torch.arange(12.0).reshape(3, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.get_buffer("rows")


class Pairs(nn.Module):
    """Works for even batch sizes only."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(x.shape[0] // 2, 2, 4).sum(1)


class FewPositions(nn.Module):
    """Has positions for five rows."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(5, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = x + self.table(torch.arange(5)[: x.shape[0]])
        return result


@torch.library.custom_op("orchestrate_tests::mystery", mutates_args=())
def mystery(x: torch.Tensor) -> torch.Tensor:
    """Double *x*; nothing translates this operator to ONNX."""
    return x * 2


@mystery.register_fake
def _(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x)


class Mystery(nn.Module):
    """Uses a custom operator."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = torch.ops.orchestrate_tests.mystery(x)
        return result


class Bessel(nn.Module):
    """Uses an aten operator that no exporter translates."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = torch.special.bessel_j0(x)
        return result


class Branch(nn.Module):
    """Takes a path that depends on the data."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.sum() > 0:
            return x + 1
        return x - 1


class Grid(nn.Module):
    """Needs opset 16 in the torchscript exporter, 20 in nothing else."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        image = x.reshape(-1, 1, 2, 2)
        grid = torch.zeros(image.shape[0], 2, 2, 2) + image.mean()
        return nn.functional.grid_sample(image, grid, align_corners=False)


class Broken(nn.Module):
    """Raises in forward."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ torch.ones(7, 7)


INNER: dict[str, type[nn.Module]] = {
    cls.__name__: cls for cls in (Mystery, Bessel, Branch, Grid, Broken)
}


class Block(nn.Module):
    """A linear layer and *inner* as ``attn``."""

    def __init__(self, inner: str) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.attn = INNER[inner]()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.attn(self.fc(x))
        return result


class Deep(nn.Module):
    """Module *inner* at the path ``backbone.block1.attn``."""

    def __init__(self, inner: str) -> None:
        super().__init__()
        self.backbone = nn.Sequential(OrderedDict(block1=Block(inner)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.backbone(x)
        return result


@dataclass
class Result:
    """An output that is a dataclass."""

    a: torch.Tensor
    nothing: None
    b: torch.Tensor


class Structured(nn.Module):
    """Returns nested structures, as *kind* says."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: torch.Tensor) -> Any:
        double = x * 2
        return {
            "same": (double, double),
            "tensor": x,
            "list": [x, x + 1],
            "nested": (x, {"deep": [x + 1, None]}),
            "dataclass": Result(a=x, nothing=None, b=x + 1),
            "number": (x, 3),
        }[self.kind]


class Embedding(nn.Module):
    """ids [batch, 3] int64 -> [batch, 3, 4]; torch calls a value inside ``embedding``."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 4))])

    def forward(self, add: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.layers[0](add) + 1
        return result


class NotFinite(nn.Module):
    """Returns NaN."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.log(-x.abs() - 1)


class Tied(nn.Module):
    """Two names for one parameter, as language models tie their embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4, bias=False)
        self.second = nn.Linear(4, 4, bias=False)
        self.second.weight = self.first.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.second(self.first(x))
        return result


def make_linear(width: int) -> nn.Module:
    """Return a Linear."""
    return Linear(width)


def make_nothing() -> None:
    """Return no module."""


def explode() -> NoReturn:
    """Raise."""
    raise RuntimeError("no such dataset")


NUMBER = 3
