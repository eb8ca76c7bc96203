"""A package: one experiment's artifacts as plain files, complete, to be taken anywhere."""

from __future__ import annotations

import json
import shutil
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from orchestrator.errors import OrchestrateError, UsageError
from orchestrator.report.manifest import NAME, read_manifest
from orchestrator.store import digests
from orchestrator.store.index import Index
from orchestrator.store.trees import Trees

# Artifact of the manifest → directory in the package.
_PARTS: Final = {
    "session": "model",
    "engine": "model",
    "onnx": "onnx",
    "samples": "samples",
    "reference": "expected",
}
SUMS: Final = "SHA256SUMS"


def make_package(directory: Path, target: Path) -> tuple[Path, int]:
    """Copy the artifacts of the experiment in *directory* to the new directory *target*.

    ``model/`` is the runnable artifact, ``onnx/`` the verified ONNX file, ``samples/`` the inputs
    and ``expected/`` what the PyTorch model gave for them; ``manifest.json``, ``config.yaml`` and
    ``SHA256SUMS`` lie beside them. Every file is compared with its digest while it is copied.

    Returns:
        The package's directory and its size in bytes.

    Raises:
        OrchestrateError: no experiment, a variant that did not pass, or a damaged artifact.
        UsageError: *target* is there already.
    """
    manifest = read_manifest(directory)
    if manifest["status"] != "passed":
        reasons = "; ".join(one["message"] for one in manifest["failures"]) or "it was interrupted"
        raise OrchestrateError(
            f"this variant {manifest['status']}, so it is not packaged as good: {reasons}",
            where=str(directory),
            hint="mend it and build again",
        )
    if target.exists():
        raise UsageError("is there already", where=str(target), hint="choose another --to")
    growing = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        growing.mkdir(parents=True)
        _fill(growing, directory, manifest)
        size = sum(path.stat().st_size for path in _files(growing))
        growing.rename(target)
    except OSError as exc:
        raise OrchestrateError(
            f"the package cannot be written ({exc.strerror}: {exc.filename})",
            where=f"--to {target}",
            hint="choose another --to",
        ) from exc
    finally:
        shutil.rmtree(growing, ignore_errors=True)
    return target, size


def _fill(package: Path, directory: Path, manifest: dict[str, Any]) -> None:
    parts = {name: folder for name, folder in _PARTS.items() if name in manifest["artifacts"]}
    for artifact, folder in parts.items():
        _copy_artifact(directory / "artifacts" / artifact, package / folder)
    (package / NAME).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    composed = directory / manifest.get("hydra", ".hydra") / "config.yaml"
    try:
        shutil.copyfile(composed, package / "config.yaml")
    except FileNotFoundError:
        raise _damaged(composed, "is gone", what="configuration") from None
    sums = [f"{digests.of_file(path)}  {path.relative_to(package)}\n" for path in _files(package)]
    (package / SUMS).write_text("".join(sums), encoding="utf-8")


def _copy_artifact(source: Path, target: Path) -> None:
    """Copy the tree of the store that *source* links to.

    Raises:
        OrchestrateError: it is missing or not what its name says.
    """
    place = source.resolve()
    if not place.is_dir():
        raise _damaged(source, "is not in the store any more")
    # ROOT/trees/ab/<digest>, as orchestrator/store/store.py lays it out. The store is not opened:
    # it may be read-only, and a directory that is none must not become one.
    root = place.parents[2]
    trees = Trees(root / "trees", root / "tmp", Index(root / "index"))
    _copy_tree(trees, place.name, source, target)


def _copy_tree(trees: Trees, digest: str, source: Path, target: Path) -> None:
    """Copy a tree file by file; *source* is what messages call it."""
    entries = trees.entries(digest)
    if entries is None:
        raise _damaged(source, "has a damaged listing")
    target.mkdir()
    for entry in entries:
        if entry.tree:
            _copy_tree(trees, entry.tree, source / entry.name, target / entry.name)
            continue
        try:
            shutil.copyfile(trees.path(digest) / entry.name, target / entry.name)
        except FileNotFoundError:
            raise _damaged(source, f"lacks {entry.name}") from None
        if digests.of_file(target / entry.name) != entry.sha256:
            raise _damaged(source, f"has a changed {entry.name}")


def _damaged(source: Path, problem: str, *, what: str = "artifact") -> OrchestrateError:
    return OrchestrateError(
        f"the {what} {problem}",
        where=str(source),
        hint="build the experiment again: damaged artifacts are rebuilt",
    )


def _files(root: Path) -> Iterator[Path]:
    for path in sorted(root.rglob("*")):
        if stat.S_ISREG(path.lstat().st_mode):
            yield path
