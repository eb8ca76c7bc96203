"""Tensors of ONNX messages: types, sizes, bytes, and the layout of the weights file."""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnx import TensorProto

WEIGHTS = "weights/weights.bin"
TENSOR_MIN_BYTES = 2**10
ALIGNMENT_BYTES = 2**12  # ONNX's ExternalData.md asks for pages, so that runtimes can map the file.

_DTYPE_NAMES = {"float": "float32", "double": "float64"}


def dtype_name(elem_type: int) -> str:
    """Return NumPy's name of the ONNX element type *elem_type*, empty when it is undefined."""
    from onnx import TensorProto

    if elem_type == TensorProto.UNDEFINED:
        return ""
    name: str = TensorProto.DataType.Name(elem_type).lower()
    return _DTYPE_NAMES.get(name, name)


def nbytes(tensor: TensorProto) -> int:
    """Return the bytes of the data of *tensor* from its type and sizes (strings: their lengths)."""
    import math

    import onnx

    if tensor.data_type == onnx.TensorProto.STRING:
        return sum(len(text) for text in tensor.string_data)
    bits = _BITS.get(dtype_name(tensor.data_type))
    if bits is None:
        bits = 8 * int(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)
    return -(-int(math.prod(tensor.dims)) * bits // 8)


_BITS: Mapping[str, int] = {"int4": 4, "uint4": 4, "float4e2m1": 4, "int2": 2, "uint2": 2}


def external_entry(tensor: TensorProto) -> dict[str, str]:
    """Return the ``external_data`` entries of *tensor*, ``length`` always among them."""
    entry = {item.key: item.value for item in tensor.external_data}
    entry.setdefault("location", "")
    if "length" not in entry:
        entry["length"] = str(nbytes(tensor))
    return entry


def embed(tensor: TensorProto, data: bytes) -> None:
    """Put *data* into *tensor* in place of its reference to a file."""
    tensor.ClearField("external_data")
    tensor.ClearField("data_location")
    tensor.raw_data = data


def is_large(tensor: TensorProto) -> bool:
    """Say whether *tensor* goes into the weights file of a large model."""
    return tensor.data_type != tensor.STRING and nbytes(tensor) >= TENSOR_MIN_BYTES


class Reader:
    """Gives the raw bytes of a tensor, from the message or mapped from the external file.

    Attributes are the reader's own; as a context manager it yields ``read(tensor) -> bytes``.
    """

    def __init__(self, source: Path | None) -> None:
        self._source = source
        self._maps: dict[str, mmap.mmap] = {}

    def __enter__(self) -> Callable[[TensorProto], bytes]:
        return self._read

    def __exit__(self, *_: object) -> None:
        for mapped in self._maps.values():
            mapped.close()

    def _read(self, tensor: TensorProto) -> bytes:
        if tensor.data_location != tensor.EXTERNAL:
            return raw_bytes(tensor)
        assert self._source is not None, "a model loaded without weights is saved with source="
        entry = external_entry(tensor)
        if int(entry["length"]) == 0:
            return b""
        if entry["location"] not in self._maps:
            with (self._source / entry["location"]).open("rb") as file:
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            self._maps[entry["location"]] = mapped
        start = int(entry.get("offset", "0"))
        return self._maps[entry["location"]][start : start + int(entry["length"])]


def raw_bytes(tensor: TensorProto) -> bytes:
    """Return the little-endian bytes of *tensor*, whichever field of the message holds them.

    The tensor's data are moved to ``raw_data`` when they stood in a typed field.
    """
    from onnx import numpy_helper

    if not tensor.HasField("raw_data"):
        dense: Any = numpy_helper.from_array(numpy_helper.to_array(tensor))
        for name in ("float_data", "int32_data", "int64_data", "double_data", "uint64_data"):
            tensor.ClearField(name)
        tensor.raw_data = dense.raw_data
    return tensor.raw_data


def write_weights(
    large: list[TensorProto], path: Path, read: Callable[[TensorProto], bytes]
) -> None:
    """Write the data of the tensors *large* to *path* and make the tensors refer to it."""
    by_digest: dict[str, list[TensorProto]] = {}
    for tensor in large:
        by_digest.setdefault(hashlib.sha256(read(tensor)).hexdigest(), []).append(tensor)
    path.parent.mkdir(exist_ok=True)
    with path.open("wb") as file:
        for digest in sorted(by_digest):
            alike = by_digest[digest]
            data = read(alike[0])
            offset = -(-file.tell() // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
            file.write(bytes(offset - file.tell()))
            file.write(data)
            for tensor in alike:
                _refer(tensor, offset=offset, length=len(data))


def _refer(tensor: TensorProto, *, offset: int, length: int) -> None:
    tensor.ClearField("raw_data")
    tensor.ClearField("external_data")
    tensor.data_location = tensor.EXTERNAL
    for key, value in (("location", WEIGHTS), ("offset", str(offset)), ("length", str(length))):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
