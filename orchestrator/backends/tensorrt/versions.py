"""TensorRT versions: which release has a name, and how each lowers a precision.

One word of the configuration becomes different things (sources: the bindings of 24 releases,
NVIDIA's documentation, builds of 8.6.0 on an H200):

=========  =============================  =============================  ==========================
precision  8.6: flags, weakly typed       10.x: strongly typed           11.x: the only way
=========  =============================  =============================  ==========================
fp32       TF32 off                       TF32 off                       TF32 off
tf32       TF32 on                        TF32 on                        TF32 on
fp16       FP16; kept operators by        fp16 ONNX                      fp16 ONNX
           layer precisions and OBEY
bf16       refused                        bf16 ONNX; 10.0 and 10.1: the  bf16 ONNX
                                          BF16 flag (opset 22 needed)
int8       Q/DQ and INT8; or calibrators  Q/DQ; or calibrators with      Q/DQ; calibrators refused
                                          INT8, weakly typed
fp8        refused                        Q/DQ                           Q/DQ
=========  =============================  =============================  ==========================

TF32 is on for what stays float beside a lower precision, since it is no coarser than fp16, and off
as soon as an operator is to be kept in fp32. Nothing of 10.x and 11.x was built here: the audit
decides.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from orchestrator.backends.tensorrt.api_since import NEWEST, SINCE
from orchestrator.errors import PlanError
from orchestrator.numerics.opsets import LEAST_OPSET

Calibrator = Literal["entropy2", "minmax"]
_CLASS_OF: Final = {"entropy2": "IInt8EntropyCalibrator2", "minmax": "IInt8MinMaxCalibrator"}
#: Least compute capability that computes in a precision (CUDA programming guide, arithmetic).
LEAST_COMPUTE_CAPABILITY: Final = {"tf32": (8, 0), "bf16": (8, 0), "int8": (6, 1), "fp8": (8, 9)}


@dataclass(frozen=True, order=True)
class Version:
    """A TensorRT version, comparable with tuples of ints through ``parts``.

    Attributes:
        parts: Its leading numbers, e.g. (10, 14, 1, 48) of ``10.14.1.48.post1``.
        text: The version as it was given.
    """

    parts: tuple[int, ...]
    text: str

    @property
    def major(self) -> int:
        """The first number."""
        return self.parts[0]

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, kw_only=True)
class Lowering:
    """How one precision becomes an ONNX model and builder settings.

    Attributes:
        precision: The word it lowers.
        onnx: What the ONNX model must be: ``fp32``, ``fp16``, ``bf16``, ``int8 qdq``, ``fp8 qdq``.
        mode: ``weak`` (flags decide types) or ``strong`` (the ONNX model does).
        flags: Precision flags of the builder, by name; empty when strong.
        tf32: Whether the TF32 flag stays set.
        calibrator: TensorRT's own calibrator, or None.
        keep: How operators kept in fp32 are honoured: by the ``graph`` or by ``layers``
            (precisions of layers, under OBEY_PRECISION_CONSTRAINTS).
        least_opset: Least opset the ONNX model needs; None where any will do.
        greatest_opset: Greatest opset that this version's parser documents; None where not known.
            A parser may take more: a reason to warn, not to refuse.
    """

    precision: str
    onnx: Literal["fp32", "fp16", "bf16", "int8 qdq", "fp8 qdq"]
    mode: Literal["weak", "strong"]
    flags: tuple[str, ...] = ()
    tf32: bool
    calibrator: Calibrator | None = None
    keep: Literal["graph", "layers"] = "graph"
    least_opset: int | None = None
    greatest_opset: int | None = None

    def request(
        self, keep_nodes: Sequence[str] = (), keep_op_types: Sequence[str] = ()
    ) -> dict[str, Any]:
        """Return the worker's ``precision``; kept operators only where layers carry them."""
        by_layers = self.keep == "layers"
        return {
            "mode": self.mode,
            "flags": list(self.flags),
            "tf32": self.tf32,
            "keep_layers": list(keep_nodes) if by_layers else [],
            "keep_op_types": list(keep_op_types) if by_layers else [],
        }


def parse_version(text: str) -> Version:
    """Return the version in *text*, e.g. ``8.6.1`` or ``10.14.1.48.post1``.

    Raises:
        PlanError: it does not begin with two numbers.
    """
    found = re.match(r"\d+(?:\.\d+)+", text.strip())
    if not found:
        raise PlanError(f"'{text}' is not a TensorRT version", hint="expected e.g. 10.14.1")
    return Version(tuple(int(n) for n in found[0].split(".")), text.strip())


def supported(version: Version, toolchain: str = "the toolchain") -> None:
    """Check that *version* is one that this backend was written for: 8.6, 10 or later.

    Raises:
        PlanError: it is older, or a 9.x (which had no general release).
    """
    if (8, 6) <= version.parts < (9,) or version.parts >= (10,):
        return
    raise PlanError(
        f"{toolchain} has TensorRT {version}, which this backend does not know",
        where="toolchain",
        hint="use TensorRT 8.6, 10.x or 11.x",
    )


def since(name: str) -> tuple[str, str] | None:
    """Return (first release, first release without it or "") of *name*, e.g. ``BuilderFlag.FP16``.

    None when the name is in none of the releases that were looked at.
    """
    prefix, _, last = name.rpartition(".")
    return SINCE.get(prefix, {}).get(last)


def available(name: str, version: Version) -> bool:
    """Return whether *version* has *name*; True for unknown names of unknown newer releases."""
    found = since(name)
    if found is None:
        return version.parts[:2] > _numbers(NEWEST)
    first, gone = found
    return _numbers(first) <= version.parts and not (gone and version.parts >= _numbers(gone))


def why_missing(name: str, version: Version) -> str:
    """Return why *version* lacks *name*, e.g. ``needs TensorRT >= 10.8``; empty when it has it."""
    if available(name, version):
        return ""
    found = since(name)
    if found is None:
        return f"is in no TensorRT up to {NEWEST}"
    first, gone = found
    if version.parts < _numbers(first):
        until = f" and < {gone}" if gone else ""
        return f"needs TensorRT >= {first}{until}"
    return f"needs TensorRT < {gone}: it was removed in {gone}"


def greatest_opset(version: Version) -> int | None:
    """Return the greatest opset that the parser of *version* documents; None where not known."""
    if version.major >= 11:
        return 25
    if version.major == 8:
        return 17
    if version.parts < (10, 2):
        return 20
    return 24 if (10, 15) <= version.parts < (10, 16) else None


def lowering(
    precision: str,
    version: Version,
    calibrator: Calibrator | None = None,
    *,
    kept: bool = False,
    compute_capability: tuple[int, int] | None = None,
    toolchain: str = "the toolchain",
) -> Lowering:
    """Return how *precision* is lowered for *version*.

    Args:
        precision: ``fp32``, ``tf32``, ``fp16``, ``bf16``, ``int8`` or ``fp8``.
        version: The toolchain's TensorRT.
        calibrator: int8: TensorRT's own calibrator; None: Q/DQ in the model.
        kept: Whether operators are kept in fp32.
        compute_capability: The device's, when known.
        toolchain: Its name, for messages.

    Raises:
        PlanError: that version or device cannot honour it, with the reason and what to do.
    """
    supported(version, toolchain)
    _check_device(precision, compute_capability, toolchain)
    if calibrator is not None:
        _check_calibrator(precision, calibrator, version, toolchain)
    weak = version.major < 10
    if precision == "tf32" and kept:
        raise PlanError(
            "precision=tf32 cannot keep operators in fp32: TF32 is one switch for the whole engine",
            where="precision",
            hint="use precision=fp32, or keep nothing",
        )
    match precision:
        case "fp32" | "tf32":
            found = Lowering(
                precision=precision,
                onnx="fp32",
                mode="weak" if weak else "strong",
                tf32=precision == "tf32",
            )
        case "fp16" if weak:
            found = _flagged("fp16", "FP16", kept=kept)
        case "fp16":
            found = Lowering(precision="fp16", onnx="fp16", mode="strong", tf32=not kept)
        case "bf16":
            found = _bf16(version, toolchain, kept=kept)
        case "int8" if calibrator:
            found = replace(_flagged("int8", "INT8", kept=kept), calibrator=calibrator)
        case "int8":
            found = Lowering(
                precision="int8",
                onnx="int8 qdq",
                mode="weak" if weak else "strong",
                flags=("INT8",) if weak else (),
                tf32=not kept,
            )
        case "fp8":
            found = _fp8(version, toolchain, kept=kept)
        case _:
            raise PlanError(
                f"there is no precision '{precision}' for TensorRT",
                where="precision",
                hint="use fp32, tf32, fp16, bf16, int8 or fp8",
            )
    least = LEAST_OPSET.get(found.precision) if found.onnx != "fp32" else None
    return replace(found, least_opset=least, greatest_opset=greatest_opset(version))


def _flagged(precision: str, flag: str, *, kept: bool) -> Lowering:
    obey = ("OBEY_PRECISION_CONSTRAINTS",) if kept else ()
    return Lowering(
        precision=precision,
        onnx="fp32",
        mode="weak",
        flags=(flag, *obey),
        tf32=not kept,
        keep="layers" if kept else "graph",
    )


def _bf16(version: Version, toolchain: str, *, kept: bool) -> Lowering:
    if version.major < 10:
        raise PlanError(
            f"precision=bf16 needs TensorRT >= 10.0; {toolchain} has {version}",
            where="precision",
            hint="use precision=fp16, or a toolchain with TensorRT >= 10.0",
        )
    if version.parts < (10, 2):  # their parsers document opset 20, and bf16 models need 22
        return _flagged("bf16", "BF16", kept=kept)
    return Lowering(precision="bf16", onnx="bf16", mode="strong", tf32=not kept)


def _fp8(version: Version, toolchain: str, *, kept: bool) -> Lowering:
    if version.major < 10:
        raise PlanError(
            f"precision=fp8 needs TensorRT >= 10.0; {toolchain} has {version}, whose parser "
            "documents no opset with 8-bit floats and whose builder refused the FP8 flag (8.6.0 on "
            "an H200)",
            where="precision",
            hint="use precision=int8 or fp16, or a toolchain with TensorRT >= 10.0",
        )
    return Lowering(precision="fp8", onnx="fp8 qdq", mode="strong", tf32=not kept)


def _check_device(
    precision: str, compute_capability: tuple[int, int] | None, toolchain: str
) -> None:
    least = LEAST_COMPUTE_CAPABILITY.get(precision)
    if least is None or compute_capability is None or compute_capability >= least:
        return
    has = ".".join(map(str, compute_capability))
    raise PlanError(
        f"precision={precision} needs compute capability >= {least[0]}.{least[1]}; the device of "
        f"{toolchain} has {has}",
        where="precision",
        hint="use precision=fp32" if precision == "tf32" else "use precision=fp16",
    )


def _check_calibrator(
    precision: str, calibrator: Calibrator, version: Version, toolchain: str
) -> None:
    if precision != "int8":
        raise PlanError(
            f"TensorRT's calibrators are for int8, and precision={precision} was asked for",
            where="calibration",
            hint="leave the calibrator out, or use precision=int8",
        )
    reason = why_missing(_CLASS_OF[calibrator], version)
    if reason:
        raise PlanError(
            f"TensorRT's own calibrator '{calibrator}' {reason}; {toolchain} has {version}",
            where="calibration",
            hint="calibrate by Q/DQ, which every version takes, or use TensorRT 8.6 or 10.x",
        )


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(n) for n in text.split("."))
