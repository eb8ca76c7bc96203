"""What a precision claim is worth: shares of storage and compute per type, and the audit's verdict.

Pure Python. Storage and compute are two claims. A stored type other than the one asked for refutes
the variant; compute that is wider than storage (fp16 on a CPU that computes in fp32) is reported.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Final

from orchestrator.backends.base import Observed, Weight, Work

PRECISIONS: Final = {
    "float32": "fp32",
    "float16": "fp16",
    "bfloat16": "bf16",
    "int8": "int8",
    "uint8": "int8",
}
_TYPE_OF: Final = {"fp32": "float32", "fp16": "float16", "int8": "int8"}
#: From this share on, a type names the whole; below half, the claim is refuted.
NAMES_WHOLE: Final = 0.95
REFUTES_BELOW: Final = 0.5


def shares(amounts: Iterable[tuple[str, int]]) -> dict[str, float]:
    """Return the share of each type in the total, largest first, rounded to 4 digits."""
    sums: Counter[str] = Counter()
    for dtype, amount in amounts:
        sums["int8" if dtype == "uint8" else dtype] += amount
    total = sums.total()
    return {dtype: round(n / total, 4) for dtype, n in sums.most_common() if n} if total else {}


def named(found: Mapping[str, float]) -> str:
    """Return one word for *found* shares: a precision, ``mixed``, or ``none`` without any."""
    if not found:
        return "none"
    dtype, share = next(iter(found.items()))
    return PRECISIONS.get(dtype, dtype) if share >= NAMES_WHOLE else "mixed"


def audit_values(observed: Observed, precision: Mapping[str, Any]) -> dict[str, Any]:
    """Return the audit's values for the asked *precision* (the Precision group as JSON).

    Of the group, ``name`` is needed; ``op_types`` (int8), ``keep_op_types`` and ``keep_nodes``
    leave out weights that were not asked to change. Without them every weight of a convolution or
    matrix product counts.

    Returns:
        ``storage``: share of all stored bytes per type; ``weights``: share of the bytes that
        convolutions and matrix products take as weights and that the precision covers;
        ``storage_precision``: one word for ``weights`` (or for ``storage`` where there are none);
        ``compute``: share of FLOPs per type as executed; ``compute_precision``: one word for it;
        ``compute_by_op``: {operator: {type: share of all FLOPs}}; ``verdict``: ``proved``,
        ``refuted`` or ``undetermined``; ``reason``: why, in one sentence.
    """
    storage = shares((weight.dtype, weight.nbytes) for weight in observed.weights)
    covered = [weight for weight in observed.weights if _covers(precision, weight)]
    weights = shares((weight.dtype, weight.nbytes) for weight in covered)
    compute = shares((work.dtype, work.flops) for work in observed.work)
    verdict, reason = _verdict(precision["name"], covered, weights, compute)
    if verdict != "refuted" and observed.note and named(compute) != precision["name"]:
        reason = f"{reason}; {observed.note}"
    return {
        "storage": storage,
        "weights": weights,
        "storage_precision": named(weights or storage),
        "compute": compute,
        "compute_precision": named(compute),
        "compute_by_op": _by_op(observed.work),
        "verdict": verdict,
        "reason": reason,
    }


def _covers(precision: Mapping[str, Any], weight: Weight) -> bool:
    """Whether *precision* speaks of *weight*: of all its consumers, some were not kept in fp32."""
    kept_ops = set(precision.get("keep_op_types", ()))
    kept_nodes = set(precision.get("keep_nodes", ()))
    ops: set[str] | None = None
    if precision["name"] == "int8" and "op_types" in precision:
        ops = set(precision["op_types"])
        if "MatMul" in ops:
            ops.add("Attention")  # ONNX Runtime fuses MatMuls into it
    return any(
        op not in kept_ops and node not in kept_nodes and (ops is None or op in ops)
        for op, node in zip(weight.consumers, weight.nodes, strict=True)
    )


def _verdict(
    asked: str, covered: list[Weight], weights: Mapping[str, float], compute: Mapping[str, float]
) -> tuple[str, str]:
    wanted = _TYPE_OF[asked]
    computes = _listed(compute) or "no convolution or matrix product"
    if asked == "fp32":
        narrow = {
            d: s for d, s in {**compute, **weights}.items() if d not in ("float32", "float64")
        }
        if "unknown" in narrow:
            return "undetermined", f"asked fp32, but some products have no known type: {computes}"
        if narrow:
            return (
                "refuted",
                f"asked fp32, found {_listed(weights)} in weights, computing {computes}",
            )
        return "proved", f"every weight is stored and every product computed in fp32 ({computes})"
    if not covered:
        return "undetermined", (
            f"asked {asked}, but the model stores no weight of a convolution or matrix product "
            f"that the precision covers; it computes {computes}"
        )
    share = weights.get(wanted, 0.0)
    stored = f"weights are stored as {_listed(weights)}, computed as {computes}"
    if share < REFUTES_BELOW:
        return "refuted", f"asked {asked}, but {stored}"
    if share < NAMES_WHOLE:
        others = sorted((w for w in covered if w.dtype != wanted), key=lambda w: -w.nbytes)
        largest = ", ".join(f"'{w.name}' ({w.dtype})" for w in others[:3])
        return "undetermined", f"asked {asked}, but only part of it: {stored}; largest: {largest}"
    return "proved", stored


def _listed(found: Mapping[str, float]) -> str:
    return ", ".join(f"{PRECISIONS.get(d, d)} {share:.1%}" for d, share in found.items())


def _by_op(work: Iterable[Work]) -> dict[str, dict[str, float]]:
    items = list(work)
    total = sum(item.flops for item in items)
    found: dict[str, dict[str, float]] = {}
    for item in items:
        if item.flops:
            row = found.setdefault(item.op, {})
            row[item.dtype] = row.get(item.dtype, 0.0) + item.flops / total
    return {op: {d: round(share, 4) for d, share in row.items()} for op, row in found.items()}
