from __future__ import annotations

from typing import Any

from tests.gpu.table import markdown

MEASURED = {"cuda_graph": True, "transfers": False, "host_p50_ms": 9.0}
VARIANT: dict[str, Any] = {
    "model": "digits",
    "precision": "int8",
    "calibration": "tensorrt_entropy",
    "status": "passed",
    "artifact_bytes": 3 << 20,
    "max_error": 0.0123,
    "snr_db": 41.26,
    "p50_ms": 0.0714,
    "audit": {"verdict": "proved"},
    "build": {"action_s": 12.34, "worker_s": {"build": 2.34}},
    "measurements": [
        {**MEASURED, "point": "opt", "event_p50_ms": 0.05},
        {**MEASURED, "point": "max", "event_p50_ms": 0.09},
        {**MEASURED, "point": "max", "cuda_graph": False, "event_p50_ms": 7.0},
        {**MEASURED, "point": "opt", "transfers": True, "event_p50_ms": 8.0},
    ],
    "beside": [
        {
            "engine": "torch",
            "precision": "fp16",
            "available": True,
            "measurements": [
                {"point": "opt", "transfers": False, "event": {"p50_ms": 0.5}, "host": {}},
                {"point": "opt", "transfers": True, "event": {}, "host": {"p50_ms": 0.7}},
            ],
        },
        {"engine": "onnxruntime", "precision": "fp16", "available": False, "reason": "no CUDA"},
    ],
}
ROWS: dict[str, dict[str, Any]] = {
    "sweep digits": {"step": "sweep digits", "ok": True, "seconds": 9.0, "variants": [VARIANT]},
    "mistake: no driver": {
        "step": "mistake: no driver",
        "ok": False,
        "seconds": 1.4,
        "code": 2,
        "message": "error: no | device\n  → install one",
    },
}


def test_an_engine_is_one_line() -> None:
    assert (
        "| digits int8 by tensorrt_entropy | 2.3 | 12.3 | 3.0 | 41.3 | 0.012 | proved | – | 0.050 "
        "| 0.090 | 0.071 |"
    ) in markdown(ROWS).splitlines()


def test_a_variant_that_failed_says_so() -> None:
    failed = {**VARIANT, "status": "failed", "audit": {"verdict": "refuted"}, "measurements": []}
    rows = {"sweep digits": {**ROWS["sweep digits"], "variants": [failed]}}
    assert "| refuted, failed | – | – | – |" in markdown(rows)


def test_what_ran_beside_has_a_line_for_each_shape() -> None:
    lines = markdown(ROWS).splitlines()
    assert "| digits | torch | fp16 | opt | 0.500 | 0.700 |" in lines
    assert "| digits | onnxruntime | fp16 | no CUDA | – | – |" in lines


def test_other_steps_tell_what_was_seen() -> None:
    lines = markdown(ROWS).splitlines()
    assert (
        "| mistake: no driver | **no** | 1 | exit code 2: error: no / device → install one |"
        in lines
    )
    assert not any(line.startswith("| sweep digits") for line in lines)


def test_tables_without_lines_are_left_out() -> None:
    rows = {"mistake: no driver": ROWS["mistake: no driver"]}
    assert len(markdown(rows).splitlines()) == 3
