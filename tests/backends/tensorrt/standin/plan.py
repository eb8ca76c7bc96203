"""The bytes of a plan: TensorRT's header as far as it is known, then JSON, then the ONNX model."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any, Final

from tests.backends.tensorrt.standin.settings import NUMBERS, device

_FIXED: Final = 32
_VERSION: Final = (*NUMBERS, 0, 0)[:4]


@dataclass(frozen=True)
class Plan:
    """An engine: *settings* (ports, profiles, layers, refittable, …) and its ONNX *model*."""

    settings: dict[str, Any]
    model: bytes

    def pack(self) -> bytes:
        """Return the plan's bytes; two of the same engine differ, as TensorRT's may."""
        built = {**self.settings, "compute_capability": device()["compute_capability"]}
        text = json.dumps(built).encode()
        body = len(text).to_bytes(4, "little") + text + self.model + os.urandom(16)
        size = (_FIXED + len(body)).to_bytes(8, "little")
        return b"ftrt" + bytes(4) + size + bytes(8) + bytes(_VERSION) + bytes(_FIXED - 28) + body


def unpack(data: bytes) -> Plan | str:
    """Return the plan in *data*, or TensorRT's words for why it does not load here."""
    if int.from_bytes(data[8:16], "little") != len(data):
        return "plan->header.size == blobSize failed."
    if tuple(data[24:28]) != _VERSION:
        library = f"{'.'.join(map(str, _VERSION))} got {'.'.join(map(str, data[24:28]))}"
        return (
            "The engine plan file is not compatible with this version of TensorRT, expecting "
            f"library version {library}, please rebuild."
        )
    at = _FIXED + 4
    end = at + int.from_bytes(data[_FIXED:at], "little")
    settings = json.loads(data[at:end])
    has, built = device()["compute_capability"], settings["compute_capability"]
    if has != built:
        return (
            "The engine plan file is generated on an incompatible device, expecting compute "
            f"{has} got compute {built}, please rebuild."
        )
    return Plan(settings, data[end:-16])
