"""Ranges of activations from calibration batches: min-max, entropy and percentile.

Batches are streamed and only the activations of one batch are in memory; ONNX Runtime's own
histogram calibrators keep the activations of every batch until the end, take their bins from
whatever the first batch held, and search entropy over 128 bins of 128, which finds nothing. Here a
first pass finds the largest magnitude of each tensor; a second one (entropy and percentile only)
fills histograms whose bins it has fixed, so the result does not depend on the order of batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from orchestrator.errors import StageError
from orchestrator.graphs import files as onnx_files

if TYPE_CHECKING:
    Array = np.ndarray[Any, Any]
    Batches = Callable[[], Iterable[Mapping[str, Array]]]

LEVELS = 128
"""Magnitudes that symmetric int8 can tell apart: 0..127."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How ranges are found.

    Attributes:
        method: ``minmax`` (largest magnitude seen), ``entropy`` (:func:`entropy_threshold`) or
            ``percentile`` (:func:`percentile_threshold`).
        percentile: For ``percentile``: percent of the magnitudes that must fit.
        bins: For ``entropy`` and ``percentile``: bins of the histogram of magnitudes.
        scratch: Directory for a temporary model.
        threads: Threads of the ONNX Runtime session.
    """

    method: str = "minmax"
    percentile: float = 99.99
    bins: int = 2048
    scratch: Path
    threads: int = 1


def activation_thresholds(
    model: onnx.ModelProto, tensors: Sequence[str], batches: Batches, how: Calibration
) -> dict[str, float]:
    """Return for each of *tensors* the magnitude that becomes the largest quantized number.

    Args:
        model: An annotated fp32 model; not changed.
        tensors: Names of float32 values of its main graph.
        batches: Gives a fresh iterator over the calibration batches, ``{input: array}``.
        how: The method.

    Raises:
        StageError: no batches; a batch the model refuses; NaN or infinity in an activation; too few
            bins for ``entropy``.
    """
    if how.method == "entropy" and how.bins < LEVELS:
        raise StageError(
            f"entropy needs at least {LEVELS} bins, got {how.bins}",
            where="calibration.bins",
            hint="2048 is usual",
        )
    run = _runner(model, tensors, how)
    largest = _largest(run(batches()), tensors)
    if how.method == "minmax":
        return largest
    histograms = _histograms(run(batches()), largest, how.bins)
    if how.method == "entropy":
        return {name: entropy_threshold(histograms[name], largest[name]) for name in tensors}
    return {
        name: percentile_threshold(histograms[name], largest[name], how.percentile)
        for name in tensors
    }


def percentile_threshold(counts: Array, limit: float, percentile: float) -> float:
    """Return the upper edge of the first bin up to which *percentile* % of the values lie.

    Args:
        counts: Histogram of magnitudes, ``[bins]`` integers, over 0..*limit*.
        limit: Upper edge of the last bin.
        percentile: Percent, in (0, 100].
    """
    total = int(counts.sum())
    if total == 0 or percentile >= 100:
        return limit
    first = int(np.searchsorted(np.cumsum(counts), percentile / 100 * total))
    return limit * (min(first, counts.size - 1) + 1) / counts.size


def entropy_threshold(counts: Array, limit: float) -> float:
    """Return the threshold whose int8 histogram loses least information.

    For every candidate of at least :data:`LEVELS` bins, P is the histogram cut there with what lies
    beyond added to its last bin, Q the same bins merged into 128 levels and spread evenly over the
    bins that P uses; the candidate with the smallest Kullback-Leibler divergence KL(P || Q) wins.
    Source: S. Migacz, *8-bit Inference with TensorRT*, GTC 2017 (session S7310), with two
    differences. Bin 0 is not counted, as in NVIDIA's pytorch-quantization: zeros are exact at any
    scale, and after a Relu they would outweigh everything else. Q is not scaled up to the mass of P
    but lacks what was cut off, and the divergence is that of unnormalized measures,
    ``sum(p ln(p/q) - p + q)`` (Csiszár, *Annals of Statistics* 19, 1991): otherwise cutting a
    tensor of few different values down to its smallest one leaves a single bin in P and Q alike
    and costs nothing.

    Args:
        counts: Histogram of magnitudes, ``[bins]`` integers, ``bins`` >= 128, over 0..*limit*.
        limit: Upper edge of the last bin.
    """
    counts = counts.astype(np.float64)
    counts[0] = 0
    if counts.sum() == 0:
        return limit
    best, best_end = np.inf, counts.size
    for end in range(LEVELS, counts.size + 1):
        divergence = _divergence(counts, end)
        if divergence < best:
            best, best_end = divergence, end
    return limit * best_end / counts.size


def _divergence(counts: Array, end: int) -> float:
    """Return KL(P || Q) of cutting *counts* after *end* bins; infinite when Q misses a bin of P."""
    inside = counts[:end]
    reference = inside.copy()
    reference[-1] += counts[end:].sum()
    used = reference > 0
    if not used.any():
        return float("inf")
    starts = (np.arange(LEVELS) * end) // LEVELS
    sums = np.add.reduceat(inside, starts)
    users = np.add.reduceat(used.astype(np.float64), starts)
    widths = np.diff(np.append(starts, end))
    spread = np.repeat(np.divide(sums, users, out=np.zeros(LEVELS), where=users > 0), widths)
    total = reference.sum()
    p, q = reference[used] / total, spread[used] / total
    if (q == 0).any():
        return float("inf")
    return float(np.sum(p * np.log(p / q) - p + q))


def _runner(
    model: onnx.ModelProto, tensors: Sequence[str], how: Calibration
) -> Callable[[Iterable[Mapping[str, Array]]], Iterator[dict[str, Array]]]:
    """Return a function that streams the values of *tensors* for each batch."""
    import onnxruntime as ort

    augmented = onnx.ModelProto()
    augmented.CopyFrom(model)
    inputs = [entry.name for entry in augmented.graph.input]
    given = {*inputs, *(entry.name for entry in augmented.graph.output)}
    infos = {info.name: info for info in augmented.graph.value_info}
    fetched = [name for name in tensors if name not in inputs]
    augmented.graph.output.extend(infos[name] for name in fetched if name not in given)
    path = onnx_files.save(augmented, how.scratch)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = how.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    needed = [entry.name for entry in session.get_inputs()]

    def run(batches: Iterable[Mapping[str, Array]]) -> Iterator[dict[str, Array]]:
        for number, batch in enumerate(batches):
            missing = [name for name in needed if name not in batch]
            if missing:
                raise StageError(
                    f"the calibration data have no input '{missing[0]}', only {sorted(batch)}",
                    where="model.calibration",
                    hint="name the data's arrays as the model's inputs",
                )
            feed = {name: batch[name] for name in needed}
            try:
                values = session.run(fetched, feed) if fetched else []
            except Exception as exc:  # ONNX Runtime's exceptions share no public base class.
                raise StageError(
                    f"the model cannot run calibration batch {number}: {exc}",
                    where="model.calibration",
                    hint="check the shapes and types of the calibration data",
                ) from exc
            found = dict(zip(fetched, values, strict=True))
            yield {name: found[name] if name in found else feed[name] for name in tensors}

    return run


def _largest(stream: Iterable[dict[str, Array]], tensors: Sequence[str]) -> dict[str, float]:
    largest = dict.fromkeys(tensors, 0.0)
    empty = True
    for values in stream:
        empty = False
        for name, array in values.items():
            found = float(np.abs(array).max(initial=0.0))
            if not np.isfinite(found):
                raise StageError(
                    f"'{name}' holds NaN or infinity on calibration data",
                    where="model.calibration",
                    hint="check the fp32 variant first: a scale needs finite values",
                )
            largest[name] = max(largest[name], found)
    if empty:
        raise StageError(
            "there is no calibration batch",
            where="model.calibration",
            hint="raise calibration.count or give more data",
        )
    return largest


def _histograms(
    stream: Iterable[dict[str, Array]], largest: Mapping[str, float], bins: int
) -> dict[str, Array]:
    histograms = {name: np.zeros(bins, dtype=np.int64) for name in largest}
    for values in stream:
        for name, array in values.items():
            limit = largest[name] or 1.0
            histograms[name] += np.histogram(np.abs(array), bins=bins, range=(0.0, limit))[0]
    return histograms
