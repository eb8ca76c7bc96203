"""An ``.onnx`` file with external data as the source: the whole chain without PyTorch."""

from __future__ import annotations

import shutil
from pathlib import Path

import onnx

from tests.acceptance.conftest import Site
from tests.command import action


def test_the_whole_chain_passes(gallery: Site) -> None:
    manifest = gallery.built.variant("model=from_file")
    roles = [one["role"] for one in manifest["actions"]]

    assert manifest["status"] == "passed"
    assert {"import", "simplify", "canonicalize", "build", "audit", "judge session"} <= set(roles)
    assert "export" not in roles
    assert action(manifest, "judge session")["values"]["outputs"]["y"]["cosine"] > 0.99999


def test_the_weights_came_along(gallery: Site) -> None:
    directory = Path(gallery.built.variant("model=from_file")["directory"])
    model = onnx.load(directory / "artifacts" / "onnx" / "model.onnx")

    assert sorted(list(tensor.dims) for tensor in model.graph.initializer) == [
        [16, 32],
        [32],
        [32, 4],
    ]
    assert all(tensor.raw_data for tensor in model.graph.initializer)


def test_an_edit_of_the_external_data_imports_again(gallery: Site, tmp_path: Path) -> None:
    place = gallery.place.copied(tmp_path)
    data = place.directory / "onnx" / "net.bin"
    content = bytearray(data.read_bytes())
    content[:4] = b"\0\0\0\0"  # one weight
    data.write_bytes(content)
    built = place.build("model=from_file", "benchmark=none")

    assert built.code == 0, built.text
    assert {"import_onnx", "simplify", "canonicalize", "run", "build"} <= built.ran()
    assert built.statuses()["samples"] == "cached"


def test_the_same_graph_beside_other_weights_is_another_model(
    gallery: Site, tmp_path: Path
) -> None:
    """The two graphs are the same bytes; only what lies beside them differs."""
    place = gallery.place.copied(tmp_path)
    other = place.directory / "other"
    shutil.copytree(place.directory / "onnx", other)
    content = bytearray((other / "net.bin").read_bytes())
    content[:4] = b"\0\0\0\0"  # one weight
    (other / "net.bin").write_bytes(content)
    built = place.build("model=from_file", "model.onnx=other/net.onnx", "benchmark=none")

    assert built.code == 0, built.text
    assert {"import_onnx", "simplify", "run", "build"} <= built.ran()
