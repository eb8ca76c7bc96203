"""Runs in a child with real bindings over stub libraries, and tells what they have, as JSON.

Argument: the worker's file. Standard input: the names to look up. Nothing of the project is
imported but that file, as in a toolchain.
"""

from __future__ import annotations

import importlib.util
import io
import json
import re
import sys
from typing import Any

import tensorrt as trt


def overloads(function: Any, name: str) -> list[list[str]]:
    """Return each overload's parameters, ``name: type[ = default]``, from pybind11's docstring."""
    found = []
    for line in (function.__doc__ or "").splitlines():
        match = re.match(rf"(?:\d+\. )?{re.escape(name)}\((.*)\)(?: -> .*)?$", line.strip())
        if match and match[1] != "*args, **kwargs":
            found.append([part for part in split(match[1]) if not part.startswith("self:")])
    return found


def split(text: str) -> list[str]:
    """Split at commas outside of brackets."""
    parts, depth, word = [], 0, ""
    for char in text:
        depth += (char in "[({<") - (char in "])}>")
        if char == "," and depth == 0:
            parts.append(word.strip())
            word = ""
        else:
            word += char
    return [*parts, word.strip()] if word.strip() else parts


def describe(worker: Any, name: str) -> dict[str, Any]:
    """Return whether *name* exists, the overloads of a call, and whether it can be assigned."""
    found: Any = worker.lookup(trt, name)
    called, last = found, name.rpartition(".")[2]
    if isinstance(found, type):
        called, last = getattr(found, "__init__", None), "__init__"
    return {
        "exists": found is not None,
        "callable": callable(found),
        "overloads": overloads(called, last) if callable(found) else [],
        "settable": isinstance(found, property) and found.fset is not None,
    }


def callbacks(worker: Any) -> dict[str, Any]:
    """Make the worker's subclasses of TensorRT's interfaces, and let TensorRT's code use them."""
    stream = io.BytesIO()
    log = worker.Log(worker.Channel(stream, lambda: None), "verbose")
    logger = worker.make_logger(trt, log)
    for severity in trt.ILogger.Severity.__members__.values():
        logger.log(severity, f"a message of {severity.name}")
    made = {"logger": log.tail(), "errors": log.errors()}
    trt.init_libnvinfer_plugins(logger, "")
    worker.make_profiler(trt, {}).report_layer_time("conv", 1.0)
    allocator = worker.make_allocator(trt, worker.Buffer(None, host=False))
    allocator.notify_shape("y", trt.Dims([2, 3]))
    made["allocator"] = allocator.shape
    if hasattr(trt, "IProgressMonitor"):
        monitor = worker.make_monitor(trt, lambda done, text: None)
        monitor.phase_start("build", None, 2)
        made["monitor"] = monitor.step_complete("build", 0)
        monitor.phase_finish("build")
    made["calibrators"] = [
        name
        for name in worker.CALIBRATORS.values()
        if hasattr(trt, name) and worker.make_calibrator(trt, name, None).get_batch_size() == 1
    ]
    session = worker.Session(".", {}, worker.Channel(stream, lambda: None))
    session.trt, session.logger = trt, logger
    try:
        worker.Building(session, "weak")
    except worker.Failure as exc:
        made["builder"] = [exc.kind, exc.message]
    return made


def steps(worker: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Check each option of *options* alone against these bindings."""
    answers = {}
    for name, value in options.items():
        try:
            taken = worker.checked(trt, worker.option_steps({name: value}))
            answers[name] = [[step.verb, step.name, step.value] for step in taken]
        except worker.Failure as exc:
            answers[name] = exc.message
    return answers


def flags(worker: Any, mode: str) -> Any:
    """Return the names in the worker's bits for ``create_network``, or the refusal."""
    try:
        bits = worker.network_flags(trt, mode)
    except worker.Failure as exc:
        return exc.message
    members = trt.NetworkDefinitionCreationFlag.__members__
    return [name for name, member in members.items() if bits >> int(member) & 1]


def main() -> None:
    """Answer the question on standard input."""
    spec = importlib.util.spec_from_file_location("worker", sys.argv[1])
    assert spec is not None
    assert spec.loader is not None
    worker = importlib.util.module_from_spec(spec)
    sys.modules["worker"] = worker
    spec.loader.exec_module(worker)
    question = json.load(sys.stdin)
    classes = {name: sorted(dir(getattr(trt, name, object))) for name in question["classes"]}
    answer = {
        "version": trt.__version__,
        "names": {name: describe(worker, name) for name in question["names"]},
        "classes": classes,
        "callbacks": callbacks(worker),
        "steps": steps(worker, question["options"]),
        "precision": {
            name: steps_of_precision(worker, precision)
            for name, precision in question["precisions"].items()
        },
        "network": {mode: flags(worker, mode) for mode in ("weak", "strong")},
        "capabilities": worker.capabilities(trt),
        "identity": worker.tensorrt_identity(trt),
    }
    sys.stdout.write(json.dumps(answer))


def steps_of_precision(worker: Any, precision: dict[str, Any]) -> Any:
    """Check a precision request against these bindings."""
    try:
        taken = worker.checked(trt, worker.precision_steps(precision))
    except worker.Failure as exc:
        return exc.message
    return [[step.name, step.value] for step in taken]


if __name__ == "__main__":
    main()
