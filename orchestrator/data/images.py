"""Data from a folder of images."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image, UnidentifiedImageError

from orchestrator.config.data import ImageData
from orchestrator.data.ports import Array, Port
from orchestrator.data.source import Request, Taken
from orchestrator.errors import StageError, nearest

SUFFIXES: Final = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp"})
CHANNELS: Final = {"RGB": 3, "L": 1}
DEEP_MODES: Final = frozenset({"I", "F", "I;16", "I;16B", "I;16L", "I;16N"})


class ImageSource:
    """Images below a folder, ordered by their relative paths, decoded when they are taken.

    Each is converted to the mode, resized (bilinear with antialiasing) so that its shorter side has
    ``resize`` pixels, or just covers the input when that is not given, cropped at its center to the
    input's height and width, and becomes ``(pixel * scale - mean) / std``. Rotation tags are not
    applied (as in torchvision's ImageFolder). Files and folders whose names start with a dot are
    left out.
    """

    def __init__(self, data: ImageData, request: Request) -> None:
        """List the folder.

        Raises:
            StageError: when the input is no image, or the folder has none, or labels are asked for
                and an image lies in no class folder.
        """
        self._data = data
        self._where = request.where
        self._observe = request.observe
        self._port = _image_port(data, request)
        self._check_values()
        # The folder itself is recorded too: an added image changes which ones are taken.
        self._folder = request.observe.file(request.paths["data"])
        self._files = _listing(self._folder, request.where)
        self._classes = self._list_classes() if data.labels and request.labels else None
        self.items = len(self._files)
        first = self._port.shape[0]
        self.group = first if len(self._port.shape) == 4 and isinstance(first, int) else 1
        if len(self._port.shape) == 4 and isinstance(first, str) and request.batch is None:
            raise StageError(
                f"the input is {self._port.text()}, whose axis 0 counts no batch that all inputs "
                "share",
                where=self._where,
                hint="use the same dimension on axis 0 of every input",
            )

    def take(self, dims: Mapping[str, int], offset: int, count: int) -> Taken:
        """Decode *count* images from *offset*; see :class:`orchestrator.data.source.Source`."""
        chosen = [(offset + index) % self.items for index in range(count)]
        sizes = self._port.sizes(dims)
        images = [self._pixels(self._files[index], sizes) for index in chosen]
        array = np.stack(images) if len(sizes) == 4 else images[0]
        labels = None if self._classes is None else self._classes[chosen]
        return Taken(arrays={self._port.name: array}, labels=labels)

    def _pixels(self, path: Path, sizes: tuple[int, ...]) -> Array:
        last = sizes[-3:]
        height, width = last[1:] if self._data.layout == "nchw" else last[:2]
        image = self._open(path)
        image = self._fit(image, path, height, width)
        pixels = np.asarray(image)
        if pixels.ndim == 2:
            pixels = pixels[:, :, None]
        if self._port.is_float:
            mean, std = np.asarray(self._data.mean), np.asarray(self._data.std)
            pixels = (pixels * self._data.scale - mean) / std
        return pixels.transpose(2, 0, 1) if self._data.layout == "nchw" else pixels

    def _open(self, path: Path) -> Image.Image:
        self._observe.file(path)
        try:
            with warnings.catch_warnings(), Image.open(path) as image:
                # Pillow warns of images that might be decompression bombs; that ends it here.
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                if image.mode in DEEP_MODES:
                    raise StageError(
                        f"'{self._name(path)}' has pixels of mode {image.mode}, deeper than 8 bits",
                        where=self._where,
                        hint="convert it to 8 bits a channel",
                    )
                return image.convert(self._data.mode)
        except (
            OSError,
            ValueError,
            SyntaxError,
            UnidentifiedImageError,
            Image.DecompressionBombError,
            Image.DecompressionBombWarning,
        ) as exc:
            raise StageError(
                f"the image '{self._name(path)}' cannot be read: {exc}",
                where=self._where,
                hint="repair it or take it out of the folder",
            ) from exc

    def _fit(self, image: Image.Image, path: Path, height: int, width: int) -> Image.Image:
        factor = max(height / image.height, width / image.width)
        if self._data.resize is not None:
            factor = self._data.resize / min(image.height, image.width)
        size = (round(image.width * factor), round(image.height * factor))
        if size[0] < width or size[1] < height:
            raise StageError(
                f"'{self._name(path)}' is {size[0]} x {size[1]} after resize={self._data.resize}, "
                f"smaller than the {width} x {height} of input '{self._port.name}'",
                where=f"{self._where}.resize",
                hint=f"use resize: {max(height, width)} or more, or leave it out",
            )
        if size != image.size:
            image = image.resize(size, Image.Resampling.BILINEAR)
        left, top = (size[0] - width) // 2, (size[1] - height) // 2
        return image.crop((left, top, left + width, top + height))

    def _list_classes(self) -> Array:
        parts = [path.relative_to(self._folder).parts for path in self._files]
        stray = next((part[0] for part in parts if len(part) == 1), None)
        if stray is not None:
            raise StageError(
                f"'{stray}' lies in no sub-folder, so it has no label",
                where=f"{self._where}.labels",
                hint="put every image into the folder of its class, or set labels: false",
            )
        names = sorted({part[0] for part in parts})
        return np.asarray([names.index(part[0]) for part in parts], dtype=np.int64)

    def _check_values(self) -> None:
        data, channels = self._data, CHANNELS[self._data.mode]
        for key, values in (("mean", data.mean), ("std", data.std)):
            if len(values) not in (1, channels):
                raise StageError(
                    f"{key} has {len(values)} values for {channels} channels of mode {data.mode}",
                    where=f"{self._where}.{key}",
                    hint=f"give 1 or {channels} values",
                )
        if 0.0 in data.std:
            raise StageError("std holds 0", where=f"{self._where}.std", hint="it is divided by")
        raw = data.scale == 1 and set(data.mean) == {0.0} and set(data.std) == {1.0}
        if not self._port.is_float and not raw:
            raise StageError(
                f"input '{self._port.name}' is {self._port.dtype}, so pixels cannot be scaled",
                where=f"{self._where}.scale",
                hint="set scale: 1.0, mean: [0.0] and std: [1.0]",
            )

    def _name(self, path: Path) -> str:
        return path.relative_to(self._folder).as_posix()


def _image_port(data: ImageData, request: Request) -> Port:
    ports = {port.name: port for port in request.ports}
    if len(ports) != 1:
        raise StageError(
            f"images feed one input, but the model has {len(ports)}: {', '.join(ports)}",
            where=request.where,
            hint="use kind: callable or npz for several inputs",
        )
    name = data.input or next(iter(ports))
    if name not in ports:
        raise StageError(
            f"'{name}' is no input of the model",
            where=f"{request.where}.input",
            hint=nearest(name, ports) or f"the input is '{next(iter(ports))}'",
        )
    port = ports[name]
    rank, channels = len(port.shape), CHANNELS[data.mode]
    axis = rank - (3 if data.layout == "nchw" else 1)
    if rank not in (3, 4) or port.shape[axis] != channels:
        raise StageError(
            f"the input is {port.text()}, which takes no {data.layout} images of mode {data.mode} "
            f"({channels} channels)",
            where=request.where,
            hint="change layout or mode, or model.inputs",
        )
    return port


def _listing(folder: Path, where: str) -> list[Path]:
    if not folder.is_dir():
        raise StageError(
            f"'{folder.name}' is no folder", where=where, hint="name a folder of images"
        )
    found = [
        (path.relative_to(folder).as_posix(), path)
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES and path.is_file()
    ]
    visible = [(n, p) for n, p in found if not any(s.startswith(".") for s in n.split("/"))]
    if not visible:
        raise StageError(
            f"the folder '{folder.name}' has no image ({', '.join(sorted(SUFFIXES))})",
            where=where,
            hint="add images, or name another folder",
        )
    return [path for _, path in sorted(visible)]
