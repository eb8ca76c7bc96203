"""``orchestrator.build``: the command's results and errors in Python."""

from __future__ import annotations

import subprocess
import sys

from tests.acceptance.conftest import Site

_SCRIPT = """
import sys
import orchestrator
from orchestrator.errors import ConfigError

results = orchestrator.build(["precision=fp32,int8", "benchmark=none"], multirun=True)
print([(one.name, one.passed, one.directory.is_dir(), one.summary.verdict) for one in results])
(strict,) = orchestrator.build(["precision=int8", "benchmark=none", "compare.int8.snr_db=90"])
print(strict.passed, strict.failures[0].message)
try:
    orchestrator.build(["precision=fp61"])
except ConfigError as exc:
    print("ConfigError", exc.where, exc.hint)
print([name for name in ("torch", "onnx", "onnxruntime", "numpy") if name in sys.modules])
"""


def test_results_failures_and_errors(demo: Site) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", _SCRIPT],
        cwd=demo.place.directory,
        env=demo.place.environment(),
        capture_output=True,
        text=True,
        check=False,
    )

    assert ended.returncode == 0, ended.stderr
    results, failed, refused, imported = ended.stdout.splitlines()
    assert results == (
        "[('precision=fp32', True, True, 'proved'), ('precision=int8', True, True, 'proved')]"
    )
    assert failed.startswith("False output logits: signal-to-noise ratio")
    assert refused == "ConfigError precision did you mean 'fp16'?"
    assert imported == "[]"
