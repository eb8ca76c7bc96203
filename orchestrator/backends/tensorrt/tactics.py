"""The type in which a kernel multiplies, read from its name.

What is sure, seen in recorded engines of 8.6.0 (H200): xmma kernels carry three groups of types,
``f32f32_tf32f32_f32``. The first group is what is read and written, the *second begins with the
type of the multiplicands* and ends with the accumulator, the third is the epilogue's. So TF32 is
told from fp32:

=========================== =====================================================================
``f32f32_f32f32_f32``       fp32 on the ordinary units (every one of the engine with TF32 cleared)
``f32f32_f32_f32``          the same, Winograd
``f32f32_tf32f32_f32``      TF32 on tensor cores (every one of the engine with TF32 on)
``f16f16_f16f16_f16``       fp16, here accumulated in fp16
``i8i8_i8i32_f32``          int8, accumulated in int32 (``i8f32_…``: written as fp32)
=========================== =====================================================================

Older cuDNN, cuBLAS and CUTLASS names (``ampere_scudnn_128x64_relu``, ``…hmma_fprop_f16f16f32…``,
``ampere_h16816gemm…``) appear in NVIDIA's published listings; reading them follows their wording.
Names that Myelin makes up (``__myl_…``) say nothing.
"""

from __future__ import annotations

import re
from typing import Final

_TYPE: Final = "tf32|bf16|f16|f32|f64|i8|u8|i32|i4|e4m3|e5m2|e2m1"
_GROUPS: Final = re.compile(
    rf"(?:^|_)(?:{_TYPE}){{1,2}}_({_TYPE})(?:{_TYPE})?_(?:{_TYPE}){{1,2}}(?=_|$)"
)
_NAMES: Final = {
    "tf32": "tf32", "bf16": "bfloat16", "f16": "float16", "f32": "float32", "f64": "float64",
    "i8": "int8", "u8": "int8", "i4": "int4", "e4m3": "float8", "e5m2": "float8", "e2m1": "float4",
}  # fmt: skip
#: Wording of other kernel families, tried in this order on each part between underscores.
_WORDS: Final = (
    (re.compile(r"tf32"), "tf32"),
    (re.compile(r"e4m3|e5m2|fp8|qmma"), "float8"),
    (re.compile(r"^(?:i8|int8|imma|i8816|i16832)"), "int8"),
    (re.compile(r"bf16"), "bfloat16"),
    (re.compile(r"^(?:fp?16|hmma|hgemm|hcudnn|h884|h1688|h16816)"), "float16"),
    (re.compile(r"^(?:scudnn|sgemm|ffma)"), "float32"),
)


def multiplies_in(tactic: str) -> str | None:
    """Return the type a kernel named *tactic* multiplies in, e.g. ``tf32``; None when not said."""
    if not tactic or tactic.startswith(("__myl", "__mye")):
        return None
    name = re.sub(r"0x[0-9a-f]+", "", tactic.lower())
    groups = _GROUPS.search(name)
    if groups:
        return _NAMES.get(groups[1])
    parts = name.split("_")
    for wording, dtype in _WORDS:
        if any(wording.search(part) for part in parts):
            return dtype
    return None
