"""Files of the user project that are made, not kept: weights, calibration data, ONNX files."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import torch

from tests.backends.nets import two_layer_net


def make_files(root: Path) -> None:
    """Make ``site/``, ``calibration.npz``, ``pickled.pt`` and ``onnx/`` below *root*."""
    install_widgets(root / "site", "1.0")
    write_calibration(root, seed=1)
    # An object beside the weights: torch.load(weights_only=True) refuses it.
    torch.save({"made_by": SimpleNamespace(), "state": _weights()}, root / "pickled.pt")
    folder = root / "onnx"
    folder.mkdir()
    onnx.save_model(
        two_layer_net(32),
        folder / "net.onnx",
        save_as_external_data=True,
        location="net.bin",
        size_threshold=0,
    )
    (folder / "truncated.onnx").write_bytes((folder / "net.onnx").read_bytes()[:100])
    (root / "outside.bin").write_bytes((folder / "net.bin").read_bytes())
    _write_leaving(folder)


def install_widgets(site: Path, version: str) -> None:
    """Install the distribution ``widgets`` into the folder *site*, in the place of an older one."""
    shutil.rmtree(site, ignore_errors=True)
    name = f"widgets-{version}.dist-info"
    contents = {
        "widgets/__init__.py": "SIZE = 5\n",
        f"{name}/METADATA": f"Metadata-Version: 2.1\nName: widgets\nVersion: {version}\n",
        f"{name}/top_level.txt": "widgets\n",
    }
    contents[f"{name}/RECORD"] = "".join(f"{path},,\n" for path in (*contents, f"{name}/RECORD"))
    for path, text in contents.items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_text(text)


def write_calibration(root: Path, *, seed: int) -> None:
    """Write 32 items of calibration data, others for another *seed*."""
    numbers = np.random.default_rng(seed)
    np.savez(root / "calibration.npz", x=numbers.normal(size=(32, 1, 8, 8)).astype(np.float32))


def _weights() -> dict[str, Any]:
    numbers = torch.Generator().manual_seed(3)
    shapes = {
        "conv.weight": (8, 1, 3, 3),
        "conv.bias": (8,),
        "norm.weight": (8,),
        "norm.bias": (8,),
        "norm.running_mean": (8,),
        "norm.running_var": (8,),
        "head.weight": (5, 512),
        "head.bias": (5,),
    }
    drawn = {name: torch.rand(shape, generator=numbers) for name, shape in shapes.items()}
    return {**drawn, "norm.num_batches_tracked": torch.tensor(1)}


def _write_leaving(folder: Path) -> None:
    model = onnx.load(folder / "net.onnx", load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../outside.bin"
    (folder / "leaving.onnx").write_bytes(model.SerializeToString())
