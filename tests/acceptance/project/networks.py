"""The user's own networks: small, random and varied enough to prove something."""

from __future__ import annotations

import sys
import time
from typing import Any

import torch
import widgets  # type: ignore[import-not-found]  # a distribution that the tests install
from torch import nn


class Tiny(nn.Module):
    """[batch, 1, 8, 8] float32 -> [batch, 5] float32."""

    def __init__(self, eps: float = 1e-5) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8, eps=eps)
        self.head = nn.Linear(8 * 64, widgets.SIZE)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = self.norm(self.conv(x)).relu()
        result: torch.Tensor = self.head(features.flatten(1))
        return result


class NotANumber(Tiny):
    """Takes the logarithm of negative numbers."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).log()


class Constant(Tiny):
    """Forgets its input."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * 0 + 1


class Determinant(nn.Module):
    """Uses an operator that ONNX does not have."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        values: torch.Tensor = torch.linalg.eigvalsh(x @ x.transpose(-1, -2))
        return values.flatten(1)


class Untranslatable(nn.Module):
    """A network with such a layer inside."""

    def __init__(self) -> None:
        super().__init__()
        self.tiny = Tiny()
        self.spectrum = Determinant()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.tiny(x) + self.spectrum(x)[:, :5]
        return result


class SmallBatches(Tiny):
    """Works for batches of up to 4."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = torch.arange(20.0).reshape(4, 5)
        return super().forward(x) + rows[: x.shape[0]]


def leaves(**_: Any) -> nn.Module:
    """End the process instead of making a network."""
    sys.exit("enough")


def talks(**_: Any) -> nn.Module:
    """Print far more than a pipe holds, then make a network."""
    for number in range(20_000):
        print(f"line {number} of what nobody asked for, on standard output")
        print("and a warning", file=sys.stderr)
    return Tiny()


def waits(**_: Any) -> nn.Module:
    """Take much longer than anybody waits."""
    time.sleep(600)
    return Tiny()
