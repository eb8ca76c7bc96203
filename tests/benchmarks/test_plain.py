from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import plain
from benchmarks.graphs import graph_of
from tests.command import Workplace

pytestmark = pytest.mark.slow  # builds the example twice


def contents(root: Path) -> dict[str, bytes]:
    """Return the bytes of every file below *root*."""
    files = [path for path in root.rglob("*") if path.is_file()]
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def test_the_plain_script_makes_the_same_artifacts(tmp_path: Path) -> None:
    """Otherwise the benchmark would compare two kinds of work."""
    words = ["precision=fp16", "benchmark=none"]
    graph = graph_of(words, multirun=False)
    (tmp_path / "chain.json").write_text(plain.chain_of(graph))
    command = [sys.executable, plain.__file__, "chain.json", "made"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    (built,) = Workplace.at(tmp_path / "place").build(*words).variants
    theirs = Path(built["directory"]) / "artifacts"
    (variant,) = graph.variants
    for name in ("onnx", "lowered", "session"):
        ref = variant.artifacts[name]
        ours = contents(tmp_path / "made" / ref.action / ref.output)
        assert ours
        assert ours == contents(theirs / name), name
