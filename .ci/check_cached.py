"""Checks that every action of the runs made since a marker file came from the store.

Usage: ``check_cached.py OUTPUTS MARKER``; reads every ``manifest.json`` below OUTPUTS that is newer
than MARKER and exits 1 when there is none, or when an action's status is not ``cached``.
"""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path


def manifests(outputs: Path, since_ns: int) -> Iterator[Path]:
    # os.walk does not follow links: experiment directories link into the store.
    for folder, _, files in os.walk(outputs):
        path = Path(folder) / "manifest.json"
        if path.name in files and path.stat().st_mtime_ns > since_ns:
            yield path


def problems(path: Path) -> list[str]:
    manifest = json.loads(path.read_text(encoding="utf-8"))
    if manifest.get("kind") == "sweep":
        return []  # its variants have manifests of their own
    actions = manifest["actions"]
    if not actions:
        return [f"{path}: lists no action"]
    return [
        f"{path}: {action['stage']} ({action['key'][:12]}) is '{action['status']}'"
        for action in actions
        if action["status"] != "cached"
    ]


def main(outputs: str, marker: str) -> int:
    found = sorted(manifests(Path(outputs), Path(marker).stat().st_mtime_ns))
    wrong = [problem for path in found for problem in problems(path)]
    if not found:
        wrong = [f"{outputs}: no manifest.json since the marker was made"]
    for problem in wrong:
        print(f"not cached: {problem}", file=sys.stderr)
    if not wrong:
        print(f"{len(found)} manifests, every action cached")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
