"""A user's project with stand-in toolchains of two versions and a small model in ONNX."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from tests.backends import nets
from tests.backends.tensorrt.standin import command

TOOLCHAINS: Final = {"trt86": "8.6.1", "trt10": "10.7.0", "trt11": "11.4.0"}
#: The same measurement, as short as it can be: what it says is no test's business.
QUICK: Final = ("benchmark.warmup_ms=1", "benchmark.measure_ms=1", "benchmark.min_runs=3")
_MODEL: Final[Mapping[str, Any]] = {
    "name": "net",
    "onnx": "net.onnx",
    "inputs": {"x": {"dtype": "float32", "shape": ["batch", 16, 8, 8]}},
    "outputs": ["y"],
    "dims": {"batch": {"min": 1, "opt": 4, "max": 8}},
    "samples": {"kind": "generator", "seed": 0},
    "calibration": {"kind": "generator", "seed": 1},
}


def make_project(root: Path) -> None:
    """Write ``conf/toolchain/trt86``, ``trt10`` and ``trt11``, ``conf/model/net`` and its file."""
    for name, version in TOOLCHAINS.items():
        write(root, f"toolchain/{name}", {"name": name, "command": command(version=version)})
    write(root, "model/net", _MODEL)
    tree = nets.save(nets.conv_net(), root / "tree")
    (tree / "model.onnx").replace(root / "net.onnx")
    tree.rmdir()


def write(root: Path, name: str, content: Mapping[str, Any]) -> None:
    """Write ``conf/NAME.yaml``."""
    path = root / "conf" / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(dict(content), sort_keys=False))


def events(path: Path) -> list[dict[str, Any]]:
    """Return what STANDIN_COUNT's file holds: ``event``, ``op`` and ``pid`` of each."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]
