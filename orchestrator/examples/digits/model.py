"""DigitsNet: a small convolutional network for 8 x 8 grey images of handwritten digits."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class DigitsNet(nn.Module):
    """Two 3 x 3 convolutions with a residual connection, two more after pooling, one linear layer.

    Every convolution is followed by batch normalization, so that the simplifier has something to
    fold; the residual addition gives the quantizer a sum of two ranges to deal with.
    """

    def __init__(self, width: int = 32, dropout: float = 0.3) -> None:
        """Make a network with random weights.

        Args:
            width: Channels of the first half; the second half has twice as many.
            dropout: Probability with which a feature is dropped during training.
        """
        super().__init__()
        self.stem = _conv(1, width)
        self.block = _conv(width, width)
        self.widen = _conv(width, 2 * width)
        self.head = _conv(2 * width, 2 * width)
        self.pool = nn.MaxPool2d(2)
        self.dropout = nn.Dropout(dropout)
        self.classify = nn.Linear(2 * width * 2 * 2, 10)

    def forward(self, image: Tensor) -> Tensor:
        """Classify images.

        Args:
            image: ``[N, 1, 8, 8]`` float32; 0 is paper, 1 is full ink.

        Returns:
            Logits of the digits 0..9, ``[N, 10]`` float32.
        """
        features = torch.relu(self.stem(image))
        features = self.pool(torch.relu(features + self.block(features)))
        features = torch.relu(self.widen(features))
        features = self.pool(torch.relu(self.head(features)))
        logits: Tensor = self.classify(self.dropout(torch.flatten(features, 1)))
        return logits


def _conv(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(channels_out),
    )
