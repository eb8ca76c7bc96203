"""Runs the TensorRT worker on a GPU machine, step by step, and keeps a row for every step.

Usage, with the interpreter that has PyTorch::

    python -m tests.gpu.check_toolchain --toolchain /path/to/python-with-tensorrt --rows rows.jsonl

A step whose row is in the file already is not repeated, so a visit that was cut short goes on where
it stopped. Each row says what was asked, what was found and whether it is what was expected. The
last lines are a table. What the ``orchestrate`` command makes of the worker, ``check_orchestrate``
shows; here are the worker's own answers to requests that the command does not send.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.backends.tensorrt.audit import audit_engine
from orchestrator.backends.tensorrt.failures import ToolchainError
from orchestrator.backends.tensorrt.graph_nodes import onnx_nodes
from orchestrator.backends.tensorrt.inspector import parse
from orchestrator.backends.tensorrt.plan_file import read_header
from orchestrator.backends.tensorrt.probe import Probed, probe
from orchestrator.backends.tensorrt.profiles import make_profiles
from orchestrator.backends.tensorrt.toolchain import Toolchain, call
from orchestrator.backends.tensorrt.versions import lowering, parse_version
from orchestrator.backends.tensorrt.work import observe
from orchestrator.store.digests import of_file
from tests.gpu.networks import Example, build_example
from tests.gpu.rows import Rows

# The libraries behind these sources are absent on the machine this was written for.
OPTIONS = {"tactic_sources": ["-CUBLAS", "-CUBLAS_LT", "-CUDNN"], "profiling_verbosity": "detailed"}
PROTOCOL = {"warmup_ms": 200, "measure_ms": 500, "min_runs": 100, "transfers": True}
PRECISIONS = ("fp32", "tf32", "fp16", "int8", "int8-entropy2")


@dataclass
class Visit:
    """One visit to the machine: the toolchain, what was probed, and the rows so far."""

    toolchain: Toolchain
    rows: Rows
    work: Path
    probed: Probed | None = None
    examples: dict[str, Example] = field(default_factory=dict)

    def call(self, request: Mapping[str, Any], files: Mapping[str, Path], name: str) -> Path:
        """Run one operation; return its directory, with ``values.json`` in it."""
        directory = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.work))
        expect = dict(self.probed.expectation) if self.probed else {}
        answer = call(self.toolchain, {"expect": expect, **request}, directory, files=files)
        (directory / "values.json").write_text(json.dumps(answer.values))
        return directory

    def example(self, name: str) -> Example:
        """Return a network with its ONNX files and samples, made on first use."""
        if name not in self.examples:
            self.examples[name] = build_example(name, self.work / "examples" / name)
        return self.examples[name]


def values(directory: Path) -> dict[str, Any]:
    """Return what an operation answered."""
    found: dict[str, Any] = json.loads((directory / "values.json").read_text())
    return found


def precision_request(visit: Visit, precision: str) -> tuple[dict[str, Any], str]:
    """Return the worker's ``precision`` and which ONNX file it wants."""
    word, _, calibrator = precision.partition("-")
    version = parse_version(str(visit.probed.seen["tensorrt"] if visit.probed else ""))
    chosen: Any = calibrator or None
    found = lowering(word, version, chosen, toolchain=visit.toolchain.name)
    return found.request(), "int8" if found.onnx == "int8 qdq" else found.onnx


def build_request(
    visit: Visit, example: Example, precision: str, **options: Any
) -> tuple[dict[str, Any], dict[str, Path]]:
    """Return a build request and its files."""
    request, onnx = precision_request(visit, precision)
    dims = {
        name: {"min": low, "opt": opt, "max": high}
        for name, (low, opt, high) in example.dims.items()
    }
    files = {"model.onnx": example.onnx[onnx if onnx in example.onnx else "fp32"]}
    found: dict[str, Any] = {
        "op": "build",
        "onnx": "model.onnx",
        "plan": "engine.plan",
        "precision": request,
        "profiles": make_profiles(example.inputs, [dims]),
        "options": {**OPTIONS, **options},
        "timing_cache": {"write": str(visit.work / "timing.cache")},
    }
    if "-" in precision:
        batches = {f"calibration-{n}.npz": path for n, path in enumerate(example.calibration)}
        files |= batches
        found["calibration"] = {"algorithm": precision.partition("-")[2], "batches": list(batches)}
    return found, files


def engine_row(visit: Visit, name: str, precision: str) -> Mapping[str, Any]:
    """Build, run, judge, audit and measure one engine."""
    example = visit.example(name)
    request, files = build_request(visit, example, precision)
    built = visit.call(request, files, f"{name}-{precision}")
    plan = built / "engine.plan"
    digest = of_file(plan)
    row: dict[str, Any] = {"bytes": plan.stat().st_size, "build": values(built)["seconds"]}
    row["header"] = str(read_header(plan).version)
    row["timing_cache"] = values(built)["timing_cache"]
    pairs = [[f"in-{n}.npz", f"out-{n}.npz"] for n in range(len(example.samples))]
    ran = visit.call(
        {"op": "run", "plan": "engine.plan", "batches": pairs, "sha256": digest},
        {
            "engine.plan": plan,
            **{pair[0]: path for pair, path in zip(pairs, example.samples, strict=True)},
        },
        "run",
    )
    row |= judged(example, [ran / pair[1] for pair in pairs])
    shapes = {name: list(array.shape) for name, array in np.load(example.samples[-1]).items()}
    inspected = visit.call(
        {"op": "inspect", "plan": "engine.plan", "shapes": shapes}, {"engine.plan": plan}, "inspect"
    )
    row["audit"] = audited(example, values(inspected), shapes, precision, request)
    measured = visit.call(
        {
            "op": "benchmark",
            "plan": "engine.plan",
            "inputs": ["in.npz"],
            "protocol": {**PROTOCOL, "cuda_graph": True},
        },
        {"engine.plan": plan, "in.npz": example.samples[-1]},
        "benchmark",
    )
    row["benchmark"] = short(values(measured))
    snr = "exact" if row["snr_db"] is None else f"{row['snr_db']:.0f} dB"
    row["shown"] = f"{row['audit']['verdict']} {snr} {row['benchmark']['p50_ms']:.3f} ms"
    return row


def judged(example: Example, outputs: list[Path]) -> dict[str, Any]:
    """Return error and SNR against PyTorch over all batches."""
    errors, signal = 0.0, 0.0
    largest = 0.0
    for reference, path in zip(example.reference, outputs, strict=True):
        with np.load(path) as found:
            given = found[found.files[0]].astype(np.float64)
        difference = given - reference.astype(np.float64)
        errors += float((difference**2).sum())
        signal += float((reference.astype(np.float64) ** 2).sum())
        largest = max(largest, float(np.abs(difference).max()))
    snr = None if errors == 0 else float(10 * np.log10(signal / errors))
    return {"max_abs": largest, "snr_db": snr, "finite": bool(np.isfinite(errors))}


def audited(
    example: Example,
    found: Mapping[str, Any],
    shapes: Mapping[str, Any],
    precision: str,
    request: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the audit's verdict for the word that was asked for."""
    import onnx

    model = onnx.load(str(example.onnx["fp32"]))
    nodes = onnx_nodes(model, {name: tuple(sizes) for name, sizes in shapes.items()})
    observed = observe(parse(found["layers"]), nodes=nodes)
    claim = {"name": precision.partition("-")[0]}
    verdict = audit_engine(observed, claim, tf32=bool(request["precision"]["tf32"]))
    kept = ("verdict", "reason", "compute", "storage", "unknown_share", "evidence")
    return {key: verdict.get(key) for key in kept}


def short(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the numbers of a benchmark that a table shows."""
    keys = ("p50_ms", "p90_ms", "p99_ms", "runs", "throughput", "clocks")
    row = {key: found.get(key) for key in keys}
    row["measurements"] = [
        {
            "graph": one.get("cuda_graph", one.get("graph")),
            "transfers": one.get("transfers"),
            "event_p50_ms": (one.get("event") or {}).get("p50_ms"),
            "host_p50_ms": (one.get("host") or {}).get("p50_ms"),
        }
        for one in found.get("measurements", [])
    ]
    return row


def refused(visit: Visit, request: Mapping[str, Any], files: Mapping[str, Path], kind: str) -> Any:
    """Expect that an operation fails with *kind*; return the message as a row."""
    try:
        visit.call(request, files, "refused")
    except ToolchainError as exc:
        return {"ok": exc.kind == kind, "kind": exc.kind, "message": exc.message, "hint": exc.hint}
    return {"ok": False, "message": "it succeeded"}


def plan_of(visit: Visit) -> Path:
    """Return a small plan, built once a visit."""
    found = visit.work / "small.plan"
    if not found.exists():
        request, files = build_request(visit, visit.example("digits"), "fp32", optimization_level=1)
        built = visit.call(request, files, "small")
        (built / "engine.plan").rename(found)
    return found


def mistakes(visit: Visit) -> None:
    """Everything that must end in one clear message."""
    digits = visit.example("digits")
    run = {"op": "run", "plan": "engine.plan", "batches": [["in.npz", "out.npz"]]}
    sample = {"in.npz": digits.samples[0]}

    def damaged(change: Callable[[bytearray], bytearray]) -> dict[str, Path]:
        path = visit.work / f"damaged-{time.time_ns()}.plan"
        path.write_bytes(change(bytearray(plan_of(visit).read_bytes())))
        return {"engine.plan": path, **sample}

    def flipped(data: bytearray) -> bytearray:
        data[len(data) // 2] ^= 0xFF
        return data

    digest = of_file(plan_of(visit))
    visit.rows.step(
        "mistake: truncated plan",
        lambda: refused(visit, run, damaged(lambda data: data[: len(data) // 2]), "refused"),
    )
    visit.rows.step(
        "mistake: flipped byte, with digest",
        lambda: refused(visit, {**run, "sha256": digest}, damaged(flipped), "refused"),
    )
    wrong = {"tensorrt": "10.16.1.11", "tensorrt_major": 10}
    visit.rows.step(
        "mistake: another TensorRT was expected",
        lambda: refused(
            visit, {**run, "expect": wrong}, {"engine.plan": plan_of(visit), **sample}, "mismatch"
        ),
    )
    request, files = build_request(visit, digits, "fp32")
    name = next(iter(digits.inputs))
    shape = request["profiles"][0][name]
    turned = [{name: {"min": shape["max"], "opt": shape["opt"], "max": shape["min"]}}]
    visit.rows.step(
        "mistake: profile with min above max",
        lambda: refused(visit, {**request, "profiles": turned}, files, "refused"),
    )
    visit.rows.step(
        "mistake: no profile for a dynamic input",
        lambda: refused(visit, {**request, "profiles": []}, files, "refused"),
    )
    visit.rows.step(
        "mistake: int8 without calibration",
        lambda: refused(
            visit,
            {**request, "precision": {**request["precision"], "flags": ["INT8"]}},
            files,
            "builder",
        ),
    )
    visit.rows.step(
        "mistake: option of a newer TensorRT",
        lambda: refused(visit, {**request, "options": {"tiling_level": "full"}}, files, "refused"),
    )
    visit.rows.step(
        "mistake: unknown operator",
        lambda: refused(
            visit, request, {"model.onnx": visit.example("custom").onnx["fp32"]}, "refused"
        ),
    )
    too_large = visit.work / "large.npz"
    array = np.load(digits.samples[0])[name]
    write_npz(too_large, {name: np.repeat(array, 4096, axis=0)})
    visit.rows.step(
        "mistake: shape outside the profile",
        lambda: refused(
            visit, run, {"engine.plan": plan_of(visit), "in.npz": too_large}, "refused"
        ),
    )


def write_npz(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write arrays by name."""
    np.savez(path, allow_pickle=False, **arrays)


def extras(visit: Visit) -> None:
    """Refit, output sizes that depend on data, several profiles, a missing plugin."""
    visit.rows.step("refit: digits with new weights", lambda: refit_row(visit))
    visit.rows.step("run: outputs whose size depends on data", lambda: nonzero_row(visit))
    visit.rows.step("build: again with the timing cache", lambda: again_row(visit))
    request, files = build_request(visit, visit.example("digits"), "fp32")
    visit.rows.step(
        "mistake: missing plugin library",
        lambda: refused(visit, {**request, "plugins": ["/nowhere/plugin.so"]}, files, "refused"),
    )


def refit_row(visit: Visit) -> Mapping[str, Any]:
    """Refit a refittable engine with other weights and judge it against their PyTorch model."""
    first, second = visit.example("digits"), visit.example("digits-other")
    request, files = build_request(visit, first, "fp32", refit="refit")
    built = visit.call(request, files, "refittable")
    begun = time.perf_counter()
    refitted = visit.call(
        {"op": "refit", "plan": "engine.plan", "onnx": "model.onnx", "output": "new.plan"},
        {"engine.plan": built / "engine.plan", "model.onnx": second.onnx["fp32"]},
        "refit",
    )
    seconds = time.perf_counter() - begun
    ran = visit.call(
        {"op": "run", "plan": "engine.plan", "batches": [["in.npz", "out.npz"]]},
        {"engine.plan": refitted / "new.plan", "in.npz": second.samples[0]},
        "refitted",
    )
    one = Example(**{**second.__dict__, "reference": second.reference[:1]})
    row = judged(one, [ran / "out.npz"])
    return {**row, "refit_seconds": seconds, "ok": (row["snr_db"] or 999) > 60}


def nonzero_row(visit: Visit) -> Mapping[str, Any]:
    """Run a network whose output size depends on its input's values."""
    example = visit.example("nonzero")
    request, files = build_request(visit, example, "fp32")
    built = visit.call(request, files, "nonzero")
    ran = visit.call(
        {"op": "run", "plan": "engine.plan", "batches": [["in.npz", "out.npz"]]},
        {"engine.plan": built / "engine.plan", "in.npz": example.samples[0]},
        "nonzero-run",
    )
    with np.load(ran / "out.npz") as found:
        given = found[found.files[0]]
    same = given.shape == example.reference[0].shape and bool((given == example.reference[0]).all())
    return {"ok": same, "shape": list(given.shape), "wanted": list(example.reference[0].shape)}


def again_row(visit: Visit) -> Mapping[str, Any]:
    """Build the same again with the timing cache that earlier builds wrote."""
    example = visit.example("resnet18")
    request, files = build_request(visit, example, "fp16")
    cache = str(visit.work / "timing.cache")
    request["timing_cache"] = {"read": cache, "write": cache}
    built = visit.call(request, files, "again")
    return {"build": values(built)["seconds"], "timing_cache": values(built)["timing_cache"]}


def main() -> int:
    """Run the steps; return how many were not what was expected."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--toolchain", required=True, nargs="+", help="command of the interpreter")
    parser.add_argument("--rows", type=Path, required=True, help="where rows are kept")
    parser.add_argument("--networks", nargs="+", default=["digits", "resnet18", "resnet50"])
    parser.add_argument("--only", default="", help="do steps whose names hold one of A,B,…")
    parser.add_argument("--again", action="store_true", help="repeat steps that have a row")
    options = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="gpu-check-"))
    toolchain = Toolchain(name="gpu", command=tuple(options.toolchain))
    only = [part.strip() for part in options.only.split(",") if part.strip()]
    hidden = {str(work): "<folder>"}
    rows = Rows(path=options.rows, only=only, again=options.again, hidden=hidden)
    visit = Visit(toolchain=toolchain, rows=rows, work=work)
    visit.probed = probe(toolchain, None)
    visit.rows.step("probe", lambda: {"seen": visit.probed.seen if visit.probed else None})
    for name in options.networks[:1]:
        for precision in PRECISIONS:
            visit.rows.step(
                f"engine: {name} {precision}", functools.partial(engine_row, visit, name, precision)
            )
    mistakes(visit)
    extras(visit)
    for name in options.networks[1:]:
        for precision in PRECISIONS:
            visit.rows.step(
                f"engine: {name} {precision}", functools.partial(engine_row, visit, name, precision)
            )
    return rows.summary()


if __name__ == "__main__":
    sys.exit(main())
