"""The table at the end of a run: its cells, and as Markdown."""

from __future__ import annotations

import time
from collections.abc import Sequence

from orchestrator.report.summary import Summary

_KIB = 1024
_MINUTE_S, _HOUR_S, _DAY_S = 60, 3600, 86400


def headings(summaries: Sequence[Summary]) -> tuple[str, ...]:
    """Return the column headings; a task metric that all variants share heads its column."""
    names = {summary.metric_name for summary in summaries if summary.metric_name}
    metric = names.pop().rpartition(":")[2] if len(names) == 1 else "metric"
    return (
        *("variant", "size", "error", "SNR", metric, "p50"),
        *(f"{name} p50" for name in _beside(summaries)),
        *("storage", "compute", "status"),
    )


def rows(summaries: Sequence[Summary]) -> list[tuple[str, ...]]:
    """Return the cells of each variant, in the order of :func:`headings`."""
    beside = _beside(summaries)
    return [
        (
            summary.name,
            size_text(summary.artifact_bytes),
            _number(summary.max_error, "{:.2g}"),
            _number(summary.snr_db, "{:.0f} dB"),
            _metric(summary),
            _latency(summary),
            *(_number(summary.beside.get(name), "{:.2f} ms") for name in beside),
            summary.storage or "–",
            summary.compute or "–",
            _status(summary),
        )
        for summary in summaries
    ]


def _beside(summaries: Sequence[Summary]) -> list[str]:
    """Return what was measured beside any of the variants."""
    return list(dict.fromkeys(name for summary in summaries for name in summary.beside))


def markdown(summaries: Sequence[Summary]) -> str:
    """Return the table as Markdown."""
    titles = headings(summaries)
    cells = [tuple(text.replace("|", "\\|") for text in row) for row in rows(summaries)]
    lines = [titles, tuple("---" for _ in titles), *cells]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def size_text(count: int | None) -> str:
    """Return a size in bytes for people: ``113.2 KiB``."""
    if count is None:
        return "–"
    size, unit = float(count), "B"
    for unit in ("B", "KiB", "MiB", "GiB"):  # the last unit reached is used below
        if size < _KIB or unit == "GiB":
            break
        size /= _KIB
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"


def age_text(then: float) -> str:
    """Return how long ago a Unix time was: ``3 h ago``."""
    seconds = max(0.0, time.time() - then)
    if seconds < _MINUTE_S:
        return "just now"
    if seconds < _HOUR_S:
        return f"{seconds / _MINUTE_S:.0f} min ago"
    return f"{seconds / _HOUR_S:.0f} h ago" if seconds < _DAY_S else f"{seconds / _DAY_S:.0f} d ago"


def _status(summary: Summary) -> str:
    if summary.interrupted:
        return "interrupted"
    return "passed" if summary.passed else "FAILED"


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else form.format(value)


def _metric(summary: Summary) -> str:
    if summary.metric is None:
        return "–"
    return f"{summary.metric:.2%}"


def _latency(summary: Summary) -> str:
    if summary.p50_ms is None:
        return "–"
    text = f"{summary.p50_ms:.2f} ms"
    if summary.measured is not None and time.time() - summary.measured > _MINUTE_S:
        text += f" ({age_text(summary.measured)})"
    return text
