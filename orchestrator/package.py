"""A package: one experiment's artifacts as plain files, complete, to be taken anywhere."""

from __future__ import annotations

import json
import shutil
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from orchestrator.errors import OrchestrateError, UsageError
from orchestrator.report.manifest import NAME, read_manifest
from orchestrator.store import digests

# Artifact of the manifest → directory in the package.
_PARTS: Final = {
    "session": "model",
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
    target.parent.mkdir(parents=True, exist_ok=True)
    growing = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        growing.mkdir()
        for artifact, folder in _PARTS.items():
            _copy_tree(directory / "artifacts" / artifact, growing / folder)
        (growing / NAME).write_text(json.dumps(manifest, indent=1) + "\n")
        shutil.copyfile(directory / ".hydra" / "config.yaml", growing / "config.yaml")
        sums = [
            f"{digests.of_file(path)}  {path.relative_to(growing)}\n" for path in _files(growing)
        ]
        (growing / SUMS).write_text("".join(sums))
        size = sum(path.stat().st_size for path in _files(growing))
        growing.rename(target)
    finally:
        shutil.rmtree(growing, ignore_errors=True)
    return target, size


def _copy_tree(source: Path, target: Path) -> None:
    """Copy a tree of the store, following its links, and check it against its listing.

    Raises:
        OrchestrateError: it is missing or not what its name says.
    """
    place = source.resolve()
    try:
        listing = place.with_name(f"{place.name}.list").read_text()
        entries = json.loads(listing)
    except (OSError, ValueError):
        raise _damaged(source, "is not in the store any more") from None
    if digests.of_bytes(f"tree\n{listing}".encode()) != place.name:
        raise _damaged(source, "has a damaged listing")
    target.mkdir()
    for entry in entries:
        if "tree" in entry:
            _copy_tree(source / entry["name"], target / entry["name"])
            continue
        try:
            shutil.copyfile(source / entry["name"], target / entry["name"])
        except FileNotFoundError:
            raise _damaged(source, f"lacks {entry['name']}") from None
        if digests.of_file(target / entry["name"]) != entry["sha256"]:
            raise _damaged(source, f"has a changed {entry['name']}")


def _damaged(source: Path, what: str) -> OrchestrateError:
    return OrchestrateError(
        f"the artifact {what}",
        where=str(source),
        hint="build the experiment again: damaged artifacts are rebuilt",
    )


def _files(root: Path) -> Iterator[Path]:
    for path in sorted(root.rglob("*")):
        if stat.S_ISREG(path.lstat().st_mode):
            yield path
