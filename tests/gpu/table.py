"""Rows of a check as Markdown, for ``docs/measurements/``.

Usage: ``python -m tests.gpu.table rows.jsonl``. Engines make one table, beside ours what else was
measured another, all other steps a third.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.gpu.rows import Row, read_rows

ENGINES = (
    "network, precision", "build s", "action s", "plan MiB", "SNR dB", "error", "audit",
    "min ms", "opt ms", "max ms", "opt ms, transfers",
)  # fmt: skip
BESIDE = ("network", "run by", "precision", "shape", "device ms", "host ms, transfers")
STEPS = ("step", "as expected", "s", "what was seen")
_TEXTS = {"network, precision", "audit", *BESIDE[:4], "step", "as expected", "what was seen"}
POINTS = ("min", "opt", "max")
_SEEN_CHARACTERS = 400


def markdown(rows: Mapping[str, Row]) -> str:
    """Return the tables of *rows* (by step); a table without lines is left out."""
    variants = [variant for row in rows.values() for variant in _variants(row)]
    sweeps = [one for name, row in rows.items() if _is_sweep(name) for one in _variants(row)]
    tables = [
        table(ENGINES, [engine_line(variant) for variant in sweeps]),
        table(BESIDE, [line for variant in variants for line in beside_lines(variant)]),
        table(STEPS, [step_line(row) for name, row in rows.items() if not _is_sweep(name)]),
    ]
    return "\n".join(filter(None, tables))


def table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table, columns with a unit or a share to the right; empty without lines."""
    found = [f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines]
    if not found:
        return ""
    rule = "|".join("---" if name in _TEXTS else "--:" for name in head)
    return "\n".join([f"| {' | '.join(head)} |", f"|{rule}|", *found, ""])


def engine_line(variant: Mapping[str, Any]) -> list[str]:
    """Return the line of one engine; latencies are medians of CUDA events, with a CUDA graph."""
    build = variant["build"]
    worker = build.get("worker_s") or {}
    calibration = variant["calibration"]
    by = f" by {calibration}" if calibration.startswith("tensorrt") else ""
    at = {
        one["point"]: one["event_p50_ms"]
        for one in variant["measurements"]
        if one["cuda_graph"] and not one["transfers"]
    }
    verdict = variant["audit"]["verdict"] or "–"
    return [
        f"{variant['model']} {variant['precision']}{by}",
        number(worker.get("build"), 1),
        number(build.get("action_s"), 1),
        number((variant["artifact_bytes"] or 0) / 2**20 or None, 1),
        number(variant["snr_db"], 1),
        "–" if variant["max_error"] is None else f"{variant['max_error']:.2g}",
        verdict if variant["status"] == "passed" else f"{verdict}, {variant['status']}",
        *(number(at.get(point), 3) for point in POINTS),
        number(variant["p50_ms"], 3),
    ]


def beside_lines(variant: Mapping[str, Any]) -> Iterator[list[str]]:
    """Yield a line for each other engine that was measured beside the variant's."""
    for other in variant.get("beside") or ():
        head = [variant["model"], str(other.get("engine")), str(other.get("precision"))]
        if not other.get("available"):
            yield [*head, str(other.get("reason")), "–", "–"]
            continue
        points = dict.fromkeys(str(one.get("point")) for one in other["measurements"])
        for point in points:
            yield [*head, point, *(_beside(other, point, with_) for with_ in (False, True))]


def _beside(other: Mapping[str, Any], point: str, transfers: bool) -> str:
    for one in other["measurements"]:
        if str(one.get("point")) == point and bool(one.get("transfers")) == transfers:
            clock = one.get("host") if transfers else (one.get("event") or one.get("host"))
            return number((clock or {}).get("p50_ms"), 3)
    return "–"


def step_line(row: Row) -> list[str]:
    """Return the line of one step."""
    said = row.get("shown") or row.get("message") or row.get("error") or ""
    seen = " ".join(str(said).split())[:_SEEN_CHARACTERS]
    code = f"exit code {row['code']}: " if row.get("code") is not None else ""
    return [row["step"], "yes" if row["ok"] else "**no**", number(row["seconds"], 0), code + seen]


def number(value: float | None, digits: int) -> str:
    """Return *value* with so many digits after the point; a dash for none."""
    return "–" if value is None else f"{value:.{digits}f}"


def _is_sweep(name: str) -> bool:
    return name.startswith("sweep ")


def _variants(row: Row) -> list[Row]:
    found: list[Row] = row.get("variants", [])
    return found


if __name__ == "__main__":
    print(markdown(read_rows(Path(sys.argv[1]))))
