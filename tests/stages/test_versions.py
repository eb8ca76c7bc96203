"""A stage's version stands for its code in every key, so code may not change behind a version.

The golden file holds, for each stage, the version and a digest of the sources that its module
imports. A changed digest asks for a decision: can results differ? Then raise the stage's
``version``. In either case run this test once with UPDATE_GOLDEN=1 and commit the file.
"""

from __future__ import annotations

import ast
import json
import os
import sys
from pathlib import Path

import pytest

import orchestrator
from orchestrator.backends.base import BACKENDS, backend
from orchestrator.stages.catalogue import NAMES, stage
from orchestrator.store import digests

ROOT = Path(orchestrator.__file__).parent
GOLDEN = Path(__file__).parent / "golden" / "versions.json"
#: Backend → stage that it serves → the modules that do it, which no import of the stage leads to.
_ORT = "orchestrator.backends.onnxruntime"
_TRT = "orchestrator.backends.tensorrt"
# The worker travels as text.
_TRT_BUILDING = (f"{_TRT}.building", f"{_TRT}.worker")
_TRT_SERVING = (f"{_TRT}.serving", f"{_TRT}.worker")
SERVED: dict[str, dict[str, tuple[str, ...]]] = {
    "onnxruntime": {
        "build": (f"{_ORT}.build",),
        "run": (f"{_ORT}.serving",),
        "audit": (f"{_ORT}.audit", "orchestrator.numerics.precision"),
        "benchmark": (f"{_ORT}.serving",),
    },
    "tensorrt": {
        "build": _TRT_BUILDING,
        "refit": _TRT_BUILDING,
        "run": _TRT_SERVING,
        "audit": _TRT_SERVING,
        "benchmark": _TRT_SERVING,
    },
}
ALL = (*NAMES, *(f"{name} {served}" for name, row in SERVED.items() for served in row))
# Shared machinery that decides no stage's result.
OUTSIDE = ("cli", "config", "executor", "plan", "report", "store", "errors", "examples")


def source_of(module: str) -> Path | None:
    """Return the file of one of our modules, or None for another's or an excluded one."""
    parts = module.split(".")
    if parts[0] != "orchestrator" or len(parts) < 2 or parts[1] in OUTSIDE:
        return None
    path = ROOT.joinpath(*parts[1:])
    return next(
        (one for one in (path.with_suffix(".py"), path / "__init__.py") if one.exists()), None
    )


def code_of(path: Path) -> ast.Module:
    """Return a source's syntax tree without its docstrings."""
    tree = ast.parse(path.read_bytes())
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            value = body[0].value
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                del body[0]
    return tree


def imports_of(tree: ast.Module) -> set[str]:
    """Return the modules, and what may be modules, that a source imports anywhere."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def digest_of(name: str) -> str:
    """Return the digest of everything that the module of stage *name* imports of ours."""
    return digest_from(f"orchestrator.stages.{name}")


def digest_from(*modules: str) -> str:
    """Return the digest of *modules* and everything of ours that they import."""
    queue, seen = list(modules), set[str]()
    sources: dict[str, str] = {}
    while queue:
        module = queue.pop()
        path = source_of(module)
        if module in seen or path is None:
            continue
        seen.add(module)
        tree = code_of(path)
        sources[module] = digests.of_bytes(ast.dump(tree).encode())
        queue += imports_of(tree)
    return digests.of_json("stage sources", sources)


def now(name: str) -> dict[str, object]:
    if name in NAMES:
        return {"version": stage(name).version, "digest": digest_of(name)}
    runtime, _, served = name.partition(" ")
    digest = digest_from(*SERVED[runtime][served])
    return {"version": backend(runtime).versions[served], "digest": digest}


def test_the_golden_file_knows_every_stage() -> None:
    if "UPDATE_GOLDEN" in os.environ:
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(json.dumps({name: now(name) for name in ALL}, indent=1) + "\n")
    assert sorted(json.loads(GOLDEN.read_text())) == sorted(ALL)


def test_every_backend_has_a_version_for_what_it_serves() -> None:
    assert {name: set(served) for name, served in SERVED.items()} == {
        name: set(backend(name).versions) for name in BACKENDS
    }


@pytest.mark.skipif(
    sys.version_info[:2] != (3, 11), reason="the digests are of Python 3.11's syntax trees"
)
@pytest.mark.parametrize("name", ALL)
def test_code_does_not_change_behind_a_version(name: str) -> None:
    assert now(name) == json.loads(GOLDEN.read_text())[name], (
        f"the code of '{name}' changed: raise its version if results can differ, then run "
        "this test with UPDATE_GOLDEN=1 and commit golden/versions.json"
    )


def test_the_closure_reaches_what_a_stage_really_runs() -> None:
    assert source_of("orchestrator.graphs.canonical") is not None
    assert "orchestrator.graphs.canonical" in str(
        imports_of(code_of(ROOT / "stages" / "canonicalize.py"))
    )
    assert digest_of("canonicalize") != digest_of("simplify")
