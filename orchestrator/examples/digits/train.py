"""Trains DigitsNet and writes ``weights.safetensors`` and ``data.npz`` beside this file.

``python -m orchestrator.examples.digits.train``; less than a minute on one CPU core. The split, the
number of epochs and every other setting are fixed beforehand: the held-out images are looked at
once, after training, to print the accuracy.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from orchestrator.examples.digits.model import DigitsNet

FOLDER: Final = Path(__file__).parent
SEED: Final = 0
HELD_OUT: Final = 400
EPOCHS: Final = 60
BATCH: Final = 64
LEARNING_RATE: Final = 3e-3
FULL_INK: Final = 16.0


def load() -> dict[str, NDArray[np.uint8] | NDArray[np.int64]]:
    """Return the images ``[N, 1, 8, 8]`` uint8 in 0..16 and labels ``[N]`` int64 of both splits.

    The split is the permutation of ``numpy.random.default_rng(SEED)``; its first ``HELD_OUT`` of
    the 1,797 images are held out.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = digits.images.astype(np.uint8)[:, None]
    labels = digits.target.astype(np.int64)
    order = np.random.default_rng(SEED).permutation(len(images))
    test, train = order[:HELD_OUT], order[HELD_OUT:]
    return {
        "train_images": images[train],
        "train_labels": labels[train],
        "test_images": images[test],
        "test_labels": labels[test],
    }


def train(images: Tensor, labels: Tensor) -> DigitsNet:
    """Train for ``EPOCHS`` epochs on ``[N, 1, 8, 8]`` float32 images with labels ``[N]`` int64."""
    torch.manual_seed(SEED)
    model = DigitsNet()
    steps = EPOCHS * math.ceil(len(images) / BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    model.train()
    for epoch in range(EPOCHS):
        total = 0.0
        order = torch.randperm(len(images))
        for start in range(0, len(images), BATCH):
            chosen = order[start : start + BATCH]
            logits = model(distort(images[chosen]))
            loss = functional.cross_entropy(logits, labels[chosen], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            total += loss.item() * len(chosen)
        if epoch % 10 == 9:
            print(
                f"epoch {epoch + 1}/{EPOCHS}: training loss {total / len(images):.4f}", flush=True
            )
    return model.eval()


def distort(images: Tensor) -> Tensor:
    """Return *images* rotated (10 degrees), scaled (10 %) and moved (up to 1 pixel) at random."""
    count = len(images)
    angle = torch.empty(count).uniform_(-math.pi / 18, math.pi / 18)
    scale = torch.empty(count).uniform_(0.9, 1.1)
    move = torch.empty(count, 2).uniform_(-0.25, 0.25)  # the image spans -1..1: 0.25 is one pixel
    cos, sin = scale * torch.cos(angle), scale * torch.sin(angle)
    rows = torch.stack([cos, -sin, move[:, 0], sin, cos, move[:, 1]], dim=1)
    grid = functional.affine_grid(rows.view(count, 2, 3), list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, align_corners=False)


def to_image(pixels: NDArray[np.uint8]) -> Tensor:
    """Return uint8 pixels in 0..16 as float32 in 0..1, which the network takes."""
    return torch.from_numpy(pixels).float() / FULL_INK


def accuracy(model: DigitsNet, images: Tensor, labels: Tensor) -> float:
    """Return the fraction of *images* that *model* classifies as *labels*."""
    with torch.inference_mode():
        return float((model(images).argmax(dim=1) == labels).float().mean())


def main() -> None:
    """Train, write the files, print the accuracy on the held-out images."""
    from safetensors.torch import save

    torch.set_num_threads(1)
    data = load()
    pixels, labels = data["train_images"].astype(np.uint8), torch.from_numpy(data["train_labels"])
    model = train(to_image(pixels), labels)
    (FOLDER / "weights.safetensors").write_bytes(save(dict(model.state_dict())))
    np.savez_compressed(FOLDER / "data.npz", allow_pickle=False, **data)
    for split in ("train", "test"):
        images = to_image(data[f"{split}_images"].astype(np.uint8))
        reached = accuracy(model, images, torch.from_numpy(data[f"{split}_labels"]))
        print(f"accuracy on the {len(images)} {split} images: {100 * reached:.2f} %")


if __name__ == "__main__":
    main()
