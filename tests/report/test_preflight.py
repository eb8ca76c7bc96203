"""What is printed of a plan: whatever a manifest says, it is told, and nothing breaks."""

from __future__ import annotations

import copy
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from orchestrator.backends.tensorrt.here import Here
from orchestrator.backends.tensorrt.plan_file import check, manifest_path, write_manifest
from orchestrator.report.preflight import as_json, print_preflight

H200 = {"name": "NVIDIA H200", "compute_capability": "9.0", "sms": 132, "memory_bytes": 1 << 37}
BUILT = {"tensorrt": "8.6.0", "cuda_runtime": "12.0", "platform": "linux-x86_64", "device": H200}
TOLD = {
    "precision": "fp16",
    "inputs": [{"name": "image", "dtype": "float32", "shape": [-1, 3]}],
    "profiles": [{"image": {"min": [1, 3], "opt": [4, 3], "max": [8, 3]}}],
}
ODD: list[Any] = [None, True, 10**400, "\x1b[2J[/]", [1], {"a": 1}, [{"b": []}]]
Path_ = tuple[str | int, ...]


def places(value: Any, above: Path_ = ()) -> Iterator[Path_]:
    """Yield where each value within *value* is."""
    yield above
    inside: Any = ()
    if isinstance(value, dict | list):
        inside = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in inside:
        yield from places(item, (*above, key))


def replaced(value: Any, place: Path_, new: Any) -> Any:
    if not place:
        return new
    made = copy.deepcopy(value)
    at = made
    for key in place[:-1]:
        at = at[key]
    at[place[-1]] = new
    return made


@pytest.mark.parametrize("here", [BUILT, {"tensorrt": "10.7.0"}], ids=["same", "newer"])
def test_any_value_in_any_place_of_a_manifest(tmp_path: Path, here: dict[str, Any]) -> None:
    plan = tmp_path / "model.plan"
    plan.write_bytes(b"ftrt" + bytes(20) + bytes((8, 6, 0, 12)))
    options = {"version_compatible": True, "hardware_compatibility": "ampere_plus"}
    write_manifest(plan, BUILT, options=options, plugins={"libx.so": "ab" * 32}, more=TOLD)
    good = json.loads(manifest_path(plan).read_text())
    for place in places(good):
        for value in ODD:
            manifest_path(plan).write_text(json.dumps(replaced(good, place, value)))
            found = check(plan, here)
            printed = Console(file=io.StringIO(), width=100)
            print_preflight(printed, plan, found, Here(identity=here))
            text = printed.file.getvalue()  # type: ignore[attr-defined]  # a StringIO
            assert found.reasons, (place, value)
            assert text.startswith("will not load" if found.loads is False else "not known")
            assert "\x1b" not in text
            assert json.loads(json.dumps(as_json(plan, found, Here(identity=here))))
