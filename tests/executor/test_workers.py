"""What a worker may do, and what is checked of what it says."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from orchestrator.errors import WorkerLostError
from orchestrator.executor.pool import Ended, Pool
from orchestrator.plan import tools
from orchestrator.store.store import Store
from tests.executor.runs import Place, params


def test_another_version_than_planned_stores_nothing(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NumPy is 'upgraded' between the plan and the second action."""
    library = tmp_path / "library"
    info = library / "numpy-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 1.0\n")
    (info / "RECORD").write_text(f"{info.name}/METADATA,,\n{info.name}/RECORD,,\n")
    monkeypatch.syspath_prepend(str(library))
    place.write(
        "def upgrades(*, dims, offset, seed):\n"
        f"    Path({str(info / 'METADATA')!r}).write_text(\n"
        "        'Metadata-Version: 2.1\\nName: numpy\\nVersion: 2.0\\n')\n"
        "    return image(dims)\n"
        "def after(*, dims, offset, seed):\n"
        "    return image(dims)\n"
    )
    found = place.run("upgrades", "after", workers=1)
    assert found["upgrades"].status == "ran"
    assert isinstance(found["after"].error, WorkerLostError)
    assert "numpy is 2.0, not 1.0" in found["after"].error.message
    assert "nothing was stored" in found["after"].error.hint
    assert len(list(Store(place.store).results.all())) == 1


def test_a_forked_worker_runs_parallel_regions_and_the_dynamo_exporter(place: Place) -> None:
    place.write(
        "def f(*, dims, offset, seed):\n"
        "    assert 'torch' in sys.modules, 'the server imported it before it forked'\n"
        "    import torch\n"
        "    torch.set_num_threads(2)\n"
        "    square = torch.ones(600, 600) @ torch.ones(600, 600)\n"
        "    assert float(square.sum()) == 600.0 ** 3\n"
        "    if dims['batch'] > 1: return image(dims)\n"
        "    program = torch.onnx.export(torch.nn.Linear(3, 2), (torch.ones(4, 3),), dynamo=True)\n"
        "    assert len(program.model.graph) > 0\n"
        "    return image(dims)\n"
    )
    scratch = place.root / "scratch"
    scratch.mkdir()
    # As the executor does it, but with torch and the exporter imported by the server beforehand.
    request = {
        "stage": "samples",
        "params": params("f"),
        "inputs": {},
        "files": {},
        "identities": {},
        "tools": tools.versions(("numpy", "python")),
        "machine": None,
        "store": str(place.store),
        "base": str(place.base),
        "threads": 1,
        "reach": {},
    }
    directory = scratch / "action"
    directory.mkdir()
    (directory / "request.json").write_text(json.dumps(request))
    pool = Pool(place.base, scratch, [str(place.base), *sys.path])
    try:
        worker = pool.submit(directory, ["torch", "torch.onnx._internal.exporter._core"], [])
        ended: list[Ended] = []
        while not ended:
            ended = [event for event in pool.poll(None) if isinstance(event, Ended)]
    finally:
        pool.stop()
    log = (directory / "log.txt").read_text()
    assert [(one.id, one.code) for one in ended] == [(worker, 0)], log
    assert ended[0].peak_bytes > 100 << 20, "torch is in it"
    assert json.loads((directory / "result.json").read_text())["ok"] is True, log


def test_a_module_in_the_working_directory_does_not_shadow_a_library(place: Place) -> None:
    """The server imports NumPy; what lies beside the user's code must not be taken for it."""
    place.write("def f(*, dims, offset, seed):\n    return image(dims)\n")
    for name in ("json", "numpy", "selectors"):
        (place.base / f"{name}.py").write_text("raise RuntimeError('shadowed')\n")
    assert place.run("f")["f"].status == "ran"


def test_a_worker_that_prints_a_lot_is_not_blocked(place: Place) -> None:
    place.write(
        "def f(*, dims, offset, seed):\n"
        "    print('x' * 2_000_000)\n"  # more than a pipe holds
        "    sys.stderr.write('y' * 2_000_000)\n"
        "    return image(dims)\n"
    )
    result = place.run("f")["f"].result
    assert result is not None
    store = Store(place.store)
    log = (store.trees.path(result.log) / "log.txt").read_text()
    assert log.startswith("x" * 1000)
    assert log.rstrip().endswith("y" * 1000)
    assert "bytes left out" in log
    assert len(log) < 2_000_000
