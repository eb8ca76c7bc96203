"""What an engine's precision is worth: proved, refuted or undetermined, never a guess.

The claim is about what engines *compute*: the share of FLOPs of convolutions and matrix products
per type of multiplicand (see ``work`` for FLOPs and types). Float weights alone would prove a TF32
engine to be fp32, so storage decides nothing here, though it is reported.

================  ==================================================================================
verdict           when
================  ==================================================================================
``proved``        at least 95 % of the covered work is known to be in the type asked for
                  (fp32: all of it, TF32 refutes)
``refuted``       less than half could be, even if everything unknown were; fp32: any known product
                  in another type; any: an operator that was to stay in fp32 in a type below TF32
``undetermined``  otherwise: fused regions that show no inner types, or only a part in that type
================  ==================================================================================

Covered are all convolutions and products except those kept in fp32, and for int8 those whose
operator is not quantized or that multiply two activations.

On 8.6.0, told by the recorded engines: fp32 and TF32 differ in every tactic's name (``tactics``),
but a ``CaskConvActPool`` layer has no tactic's name, so with Float weights it stays "fp32 or TF32".
TF32 on is a permission: a builder may still choose fp32 kernels, and then the claim tf32 is not
proved. An engine of a typed fp16 model built without the FP16 flag shows ``tf32`` kernels and Float
weights throughout, and is refuted by either.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from orchestrator.backends.tensorrt.work import EngineObserved, LayerWork
from orchestrator.numerics.precision import NAMES_WHOLE, REFUTES_BELOW, shares

#: Precision asked for → type of the multiplicands that keeps it.
TYPE_OF: Final[Mapping[str, str]] = {
    "fp32": "float32", "tf32": "tf32", "fp16": "float16", "bf16": "bfloat16",
    "int8": "int8", "fp8": "float8",
}  # fmt: skip
_WORD_OF: Final = {dtype: word for word, dtype in TYPE_OF.items()}
#: Types that an operator kept in fp32 may compute in: TF32 has fp32's range and a shorter mantissa.
_KEPT: Final = frozenset({"float32", "float64", "tf32"})
_EITHER: Final = "fp32 or tf32"
_SHOWN: Final = 5


def audit_engine(
    observed: EngineObserved, precision: Mapping[str, Any], *, tf32: bool | None = None
) -> dict[str, Any]:
    """Return the audit's values for the asked *precision* (the Precision group as JSON).

    Args:
        observed: What the inspector shows.
        precision: ``name``; ``keep_nodes``, ``keep_op_types`` and ``op_types`` (int8) where given.
        tf32: What the builder was told. False decides layers that are "fp32 or TF32": a builder
            without the TF32 flag has no such kernels.

    Returns:
        The keys of :func:`orchestrator.numerics.precision.audit_values` with the same meaning, and
        ``covered``: share of the covered work per type; ``kept``: share of all work per type of
        operators kept in fp32; ``unknown_share``: share of the covered work that no type is known
        of, null when its size is not known; ``regions``: [{name, share, nodes}] of fused regions;
        ``layers``: [{name, dtype, share}] of the largest layers not in the type asked for;
        ``time``: share of time per type where profiled; ``evidence``: share of all work per kind
        of evidence (``tactic``, ``format``, ``weights``, ``none``); ``weights_bytes``; ``basis``:
        where FLOPs come from.
    """
    asked = str(precision["name"])
    work = [item for item in observed.work if isinstance(item, LayerWork)]
    kept = [item for item in work if _is_kept(item, precision)]
    covered = [i for i in work if i.flops and i not in kept and _covers(i, precision)]
    verdict, reason = _verdict(asked, covered, kept, observed, tf32)
    weights = [weight for weight in observed.weights if weight.consumers]
    compute = shares((_type(item, tf32), item.flops) for item in work)
    stored = shares((weight.dtype, weight.nbytes) for weight in weights)
    total = sum(item.flops for item in work)
    return {
        "storage": shares((weight.dtype, weight.nbytes) for weight in observed.weights),
        "weights": stored,
        "storage_precision": _named(stored),
        "compute": compute,
        "compute_precision": _named(compute),
        "compute_by_op": _by_op(work, total, tf32),
        "covered": shares((_type(item, tf32), item.flops) for item in covered),
        "kept": _part(kept, total, tf32),
        "unknown_share": _unknown_share(covered, observed, tf32),
        "regions": [
            {"name": item.name, "share": _share(item, total, observed), "nodes": list(item.nodes)}
            for item in work
            if item.region
        ],
        "layers": _others(asked, covered, tf32, total)[:20],
        "time": shares((_type(item, tf32), round(item.time_us * 1000)) for item in work),
        "evidence": shares((item.evidence, item.flops) for item in work),
        "weights_bytes": sum(weight.nbytes for weight in observed.weights),
        "basis": observed.basis,
        "verdict": verdict,
        "reason": reason,
    }


def _type(item: LayerWork, tf32: bool | None) -> str:
    if item.dtype == "unknown" and item.possible == ("float32", "tf32"):
        return "float32" if tf32 is False else _EITHER
    return item.dtype


def _is_kept(item: LayerWork, precision: Mapping[str, Any]) -> bool:
    """Whether every product in *item* was to stay in fp32."""
    nodes, ops = set(precision.get("keep_nodes", ())), set(precision.get("keep_op_types", ()))
    if not item.nodes:
        return item.op in ops
    pairs = zip(item.nodes, item.ops, strict=True)
    return all(node in nodes or op in ops for node, op in pairs)


def _covers(item: LayerWork, precision: Mapping[str, Any]) -> bool:
    if precision["name"] != "int8" or item.region or "op_types" not in precision:
        return True
    quantized = set(precision["op_types"])
    return item.weighted and any(op in quantized for op in (item.ops or (item.op,)))


def _verdict(
    asked: str,
    covered: Sequence[LayerWork],
    kept: Sequence[LayerWork],
    observed: EngineObserved,
    tf32: bool | None,
) -> tuple[str, str]:
    wanted = TYPE_OF.get(asked)
    if wanted is None:
        return "undetermined", f"the audit knows no precision '{asked}'"
    narrowed = [i for i in kept if _type(i, tf32) not in _KEPT | {_EITHER, "unknown"}]
    if narrowed:
        return "refuted", (
            f"operators to be kept in fp32 compute in other types: {_listed_layers(narrowed, tf32)}"
        )
    if not covered:
        return "undetermined", (
            f"asked {asked}, but the engine shows no convolution or matrix product it covers"
        )
    found = shares((_type(item, tf32), item.flops) for item in covered)
    computes = f"convolutions and matrix products compute in {_listed(found)}" + _kept_note(
        kept, tf32
    )
    others = [i for i in covered if _type(i, tf32) != wanted]
    unknown = [i for i in others if _may_be(i, wanted, tf32)]
    known = [i for i in others if i not in unknown]
    doubt = _doubt(unknown, covered, observed, tf32)
    if wanted == "float32":
        if known:
            return "refuted", f"asked fp32, but {computes}: {_listed_layers(known, tf32)}"
        return ("undetermined", f"asked fp32, but {doubt}") if unknown else ("proved", computes)
    share = found.get(wanted, 0.0)
    total = sum(item.flops for item in covered)
    possible = share + sum(item.flops for item in unknown) / total
    # A share is worth nothing where the other side's size is not known.
    if possible < REFUTES_BELOW and not _any_unsized(
        [item for item in covered if item not in known], observed
    ):
        return "refuted", f"asked {asked}, but {computes}: {_listed_layers(known, tf32)}"
    if share >= NAMES_WHOLE and not _any_unsized(others, observed):
        return "proved", computes
    why = doubt or f"only part of it is: {_listed_layers(known, tf32)}"
    return "undetermined", f"asked {asked}, but {why}; {computes}"


def _any_unsized(items: Iterable[LayerWork], observed: EngineObserved) -> bool:
    return any(item.name in observed.unweighed for item in items)


def _may_be(item: LayerWork, wanted: str, tf32: bool | None) -> bool:
    found = _type(item, tf32)
    if found == _EITHER:
        return wanted in ("float32", "tf32")
    return found == "unknown"


def _doubt(
    unknown: Sequence[LayerWork],
    covered: Sequence[LayerWork],
    observed: EngineObserved,
    tf32: bool | None,
) -> str:
    if not unknown:
        return ""
    share = _unknown_share(covered, observed, tf32)
    size = "an unknown share" if share is None else f"{share:.1%}"
    regions = sum(item.region for item in unknown)
    kind = "layers"
    if regions:
        kind = "a fused region that shows" if regions == 1 else f"{regions} fused regions that show"
        kind += " no inner types"
    if regions and regions < len(unknown):
        kind += f" and {len(unknown) - regions} layers"
    either = all(_type(item, tf32) == _EITHER for item in unknown)
    if either:
        kind += " of fp32 or tf32, the inspector does not tell which"
    elif not regions:
        kind += " of no known type"
    return f"{size} of the work is in {kind} ({_listed_layers(unknown, tf32)})"


def _unknown_share(
    covered: Sequence[LayerWork], observed: EngineObserved, tf32: bool | None
) -> float | None:
    unknown = [i for i in covered if _type(i, tf32) in ("unknown", _EITHER)]
    if _any_unsized(unknown, observed):
        return None
    total = sum(item.flops for item in covered)
    return round(sum(item.flops for item in unknown) / total, 4) if total else 0.0


def _share(item: LayerWork, total: int, observed: EngineObserved) -> float | None:
    return None if item.name in observed.unweighed else round(item.flops / total, 4)


def _others(
    asked: str, covered: Iterable[LayerWork], tf32: bool | None, total: int
) -> list[dict[str, Any]]:
    wanted = TYPE_OF.get(asked)
    found = [item for item in covered if _type(item, tf32) != wanted]
    return [
        {"name": i.name, "dtype": _type(i, tf32), "share": round(i.flops / total, 4)}
        for i in sorted(found, key=lambda item: -item.flops)
    ]


def _part(items: Iterable[LayerWork], total: int, tf32: bool | None) -> dict[str, float]:
    sums: Counter[str] = Counter()
    for item in items:
        sums[_type(item, tf32)] += item.flops
    return {dtype: round(n / total, 4) for dtype, n in sums.most_common()}


def _by_op(work: Iterable[LayerWork], total: int, tf32: bool | None) -> dict[str, dict[str, float]]:
    found: dict[str, Counter[str]] = {}
    for item in work:
        found.setdefault(item.op, Counter())[_type(item, tf32)] += item.flops
    return {
        op: {dtype: round(n / total, 4) for dtype, n in row.most_common()}
        for op, row in found.items()
    }


def _named(found: Mapping[str, float]) -> str:
    if not found:
        return "none"
    dtype, share = next(iter(found.items()))
    return _WORD_OF.get(dtype, dtype) if share >= NAMES_WHOLE else "mixed"


def _kept_note(kept: Sequence[LayerWork], tf32: bool | None) -> str:
    if not kept:
        return ""
    types = sorted({_WORD_OF.get(_type(item, tf32), _type(item, tf32)) for item in kept})
    return f"; {len(kept)} layers kept in fp32 compute in {', '.join(types)}"


def _listed(found: Mapping[str, float]) -> str:
    return ", ".join(f"{_WORD_OF.get(d, d)} {share:.1%}" for d, share in found.items())


def _listed_layers(items: Sequence[LayerWork], tf32: bool | None) -> str:
    largest = sorted(items, key=lambda item: -item.flops)
    text = ", ".join(
        f"'{i.name}' ({_WORD_OF.get(_type(i, tf32), _type(i, tf32))})" for i in largest[:_SHOWN]
    )
    return text + (f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else "")
