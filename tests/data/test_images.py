from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from orchestrator.errors import StageError
from orchestrator.numerics.batches import read_labels
from tests.data.helpers import read, samples
from tests.stage_context import StageRun

GREY = {"image": {"dtype": "float32", "shape": ["batch", 1, 4, 4]}}
COLOUR = {"image": {"dtype": "float32", "shape": ["batch", 3, 4, 6]}}
ONE = {"batch": {"min": 1, "opt": 1, "max": 1}}


def grey(path: Path, value: int, size: tuple[int, int] = (4, 4)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, value).save(path)


def take(
    tmp_path: Path, folder: Path, inputs: Any = GREY, data: Any = None, **changes: Any
) -> StageRun:
    asked = {"kind": "images", "mode": "L", "scale": 1.0} | (data or {})
    return samples(tmp_path, asked, {"data": folder}, inputs=inputs, dims=ONE, **changes)


def values(run: StageRun) -> list[float]:
    return [float(arrays["image"].mean()) for _, arrays in read(run)]


def test_images_come_in_sorted_order_and_every_read_is_recorded(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    for name, value in (("b.png", 2), ("a/z.png", 1), ("c.bmp", 3), (".hidden.png", 9)):
        grey(folder / name, value)
    (folder / "notes.txt").write_text("no image")
    run = take(tmp_path, folder, batches=3)
    assert values(run) == [1, 2, 3]
    assert run.observed.files == [folder, *(folder / n for n in ("a/z.png", "b.png", "c.bmp"))]


def test_a_new_image_changes_the_result(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    grey(folder / "b.png", 2)
    before = take(tmp_path, folder, batches=1)
    grey(folder / "a.png", 1)
    assert values(before) == [2]
    assert values(take(tmp_path, folder, batches=1)) == [1]


def test_values_are_scaled_then_normalized_by_channel(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    Image.new("RGB", (6, 4), (255, 51, 0)).save(folder / "x.png")
    data = {"mode": "RGB", "scale": 1 / 255, "mean": [0.5, 0.1, 0.0], "std": [0.5, 0.1, 1.0]}
    _, arrays = read(take(tmp_path, folder, COLOUR, data, batches=1))[0]
    assert arrays["image"].shape == (1, 3, 4, 6)
    np.testing.assert_allclose(arrays["image"][0, :, 0, 0], [1, 1, 0], atol=1e-6)


def test_layout_nhwc_and_integers(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    pixels = np.arange(72, dtype=np.uint8).reshape(4, 6, 3)
    Image.fromarray(pixels).save(folder / "x.png")
    inputs = {"image": {"dtype": "uint8", "shape": ["batch", 4, 6, 3]}}
    run = take(tmp_path, folder, inputs, {"mode": "RGB", "layout": "nhwc"}, batches=1)
    np.testing.assert_array_equal(read(run)[0][1]["image"][0], pixels)


def test_an_image_is_resized_to_cover_the_input_and_cropped_at_its_center(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    pixels = np.zeros((8, 24), dtype=np.uint8)
    pixels[:, 8:16] = 200
    Image.fromarray(pixels).save(folder / "x.png")
    image = read(take(tmp_path, folder, batches=1))[0][1]["image"][0, 0]
    # 8 x 24 becomes 4 x 12, of which columns 4..8 are kept: all inside the bright stripe.
    assert image[:, 1:3].min() == 200
    assert image.min() > 150
    small = read(take(tmp_path, folder, data={"resize": 8}, batches=1))[0][1]["image"][0, 0]
    assert small.min() == 200


def test_a_static_input_without_batch_axis(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    grey(folder / "a.png", 7)
    inputs = {"image": {"dtype": "float32", "shape": [1, 4, 4]}}
    asked = {"kind": "images", "mode": "L", "scale": 1.0}
    run = samples(tmp_path, asked, {"data": folder}, inputs=inputs, dims={}, batches=1)
    assert read(run)[0][1]["image"].shape == (1, 4, 4)


def test_sub_folders_are_labels(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    for name, value in (("cat/1.png", 1), ("dog/1.png", 2), ("ant/1.png", 3)):
        grey(folder / name, value)
    run = take(tmp_path, folder, data={"labels": True}, purpose="task", count=3)
    assert values(run) == [3, 1, 2]
    assert read_labels(run.outputs["samples"]).tolist() == [0, 1, 2]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("inputs", "data", "message"),
    [
        (COLOUR, {}, "takes no nchw images of mode L"),
        (GREY, {"layout": "nhwc"}, "takes no nhwc images of mode L"),
        (GREY, {"input": "imag"}, "'imag' is no input of the model"),
        (GREY, {"resize": 2}, "2 x 2 after resize=2, smaller than the 4 x 4 of input 'image'"),
        (GREY, {"mean": [0.0, 1.0]}, "mean has 2 values for 1 channels"),
        (GREY, {"std": [0.0]}, "std holds 0"),
        (GREY | {"other": GREY["image"]}, {}, "images feed one input, but the model has 2"),
        (
            {"image": {"dtype": "uint8", "shape": ["batch", 1, 4, 4]}},
            {"scale": 0.5},
            "is uint8, so pixels cannot be scaled",
        ),
    ],
)
def test_mistakes_in_the_declaration_are_named(
    tmp_path: Path, inputs: Any, data: Any, message: str
) -> None:
    folder = tmp_path / "images"
    grey(folder / "a.png", 1)
    with pytest.raises(StageError, match=message):
        take(tmp_path, folder, inputs, data)


def test_an_unreadable_image_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    grey(folder / "cat/a.png", 1, (64, 64))
    whole = (folder / "cat/a.png").read_bytes()
    (folder / "cat/a.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(StageError, match=r"the image 'cat/a\.png' cannot be read"):
        take(tmp_path, folder)
    (folder / "cat/a.png").write_text("not at all an image")
    with pytest.raises(StageError, match=r"the image 'cat/a\.png' cannot be read"):
        take(tmp_path, folder)


def test_deep_pixels_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    Image.fromarray(np.full((4, 4), 40000, dtype=np.uint16)).save(folder / "deep.png")
    with pytest.raises(StageError, match=r"'deep\.png' has pixels of mode I;16"):
        take(tmp_path, folder)


def test_folders_that_give_nothing_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    with pytest.raises(StageError, match="'images' is no folder"):
        take(tmp_path, folder)
    folder.mkdir()
    with pytest.raises(StageError, match="'images' has no image"):
        take(tmp_path, folder)
    grey(folder / "stray.png", 1)
    grey(folder / "cat/a.png", 1)
    with pytest.raises(StageError, match=r"'stray\.png' lies in no sub-folder"):
        take(tmp_path, folder, data={"labels": True}, purpose="task", count=1)
