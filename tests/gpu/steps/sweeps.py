"""Every network in every precision: built, judged, audited, measured; and again, for nothing."""

from __future__ import annotations

from collections.abc import Iterator

from tests.gpu.commands import Timed
from tests.gpu.steps.check import CONVOLUTIONAL, Check, Json
from tests.gpu.variants import variant_row

PRECISIONS = "precision=fp32,tf32,fp16,int8"
#: Seen with 8.6.0: for so small a network TensorRT takes TF32 kernels, and the audit says so.
REFUTED = {("digits", "fp16", "minmax"), ("digits", "int8", "tensorrt_entropy")}


def _builds(check: Check, model: str) -> Iterator[Timed]:
    yield check.command.build(model, PRECISIONS, sweep=True)
    if model in CONVOLUTIONAL:
        calibrated = ("precision=int8", "calibration=tensorrt_entropy")
        yield check.command.build(model, *calibrated)


def sweep(check: Check, model: str) -> Json:
    """Build every precision; each variant's row.

    As expected: each was judged and passed, its precision was proved (or could not be determined,
    as in the fused regions of transformers on 8.6; or is known to be refuted) and it was measured.
    """
    found = list(_builds(check, model))
    rows = [variant_row(one) for timed in found for one in timed.built.variants]
    unexpected = [text for row in rows if (text := _unexpected(row))]
    return {
        "ok": not unexpected,
        "shown": "; ".join(unexpected or [_shown(row) for row in rows]),
        "command_s": [timed.seconds for timed in found],
        "variants": rows,
    }


def _unexpected(row: Json) -> str:
    verdict = row["audit"]["verdict"]
    known = (row["model"], row["precision"], row["calibration"]) in REFUTED
    if known and verdict == "refuted" and len(row["failures"]) == 1:
        return ""
    judged = row["status"] == "passed" and verdict in ("proved", "undetermined")
    if judged and row["p50_ms"] is not None:
        return ""
    return f"{_shown(row)}: {'; '.join(row['failures']) or 'not measured or not proved'}"


def _shown(row: Json) -> str:
    snr = "–" if row["snr_db"] is None else f"{row['snr_db']:.0f} dB"
    p50 = "–" if row["p50_ms"] is None else f"{row['p50_ms']:.3f} ms"
    return f"{row['precision']} {row['status']} {row['audit']['verdict']} {snr} {p50}"


def again(check: Check, model: str) -> Json:
    """Give the same commands again: nothing may run."""
    found = list(_builds(check, model))
    counts = [timed.built.results["counts"] for timed in found]
    ran = sum(count.get("ran", 0) + count.get("failed", 0) for count in counts)
    return {
        "ok": ran == 0,
        "shown": f"{ran} actions ran, in {[timed.seconds for timed in found]} s",
        "counts": counts,
        "command_s": [timed.seconds for timed in found],
    }


def beside(check: Check, model: str) -> Json:
    """Measure PyTorch eager and ONNX Runtime CUDA beside the engines."""
    wanted = ("precision=fp32,tf32,fp16", "benchmark.beside=auto")
    timed = check.command.build(model, *wanted, sweep=True)
    rows = [variant_row(one) for one in timed.built.variants]
    others = [other for row in rows for other in row["beside"]]
    parts = [
        f"{other.get('engine')} {other.get('precision')} "
        + (f"{other['p50_ms']:.3f} ms" if other.get("available") else str(other.get("reason")))
        for other in others
    ]
    return {"ok": bool(others), "shown": "; ".join(parts) or "nothing", "variants": rows}


def profiles(check: Check, model: str) -> Json:
    """Build one engine with a profile for single items and one for batches, measured at each."""
    timed = check.command.build(
        model,
        "precision=tf32",
        "+profile.dims.batch={min:1,opt:1,max:1}",
        "profile.further=[{batch:{min:1,opt:8,max:32}}]",
    )
    (variant,) = timed.built.variants
    row = variant_row(variant)
    points = [
        f"{list((one['shapes'] or {}).values())} {one['event_p50_ms']:.3f} ms"
        for one in row["measurements"]
        if one["cuda_graph"] and not one["transfers"]
    ]
    return {
        "ok": row["status"] == "passed" and bool(row["measurements"]),
        "shown": "; ".join([*row["failures"], *points]),
        "variants": [row],
    }
