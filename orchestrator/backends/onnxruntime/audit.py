"""What ONNX Runtime stores and really executes: the model file, and one run under its profiler.

The profiler's node events carry operator, operand types and shapes of the graph as it was executed,
after casts were inserted and nodes fused (``args.input_type_shape``, ``args.output_type_shape``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import onnx

from orchestrator.backends.base import Job, Observed, Target, Work
from orchestrator.backends.onnxruntime.flops import Shape, flops
from orchestrator.backends.onnxruntime.graphs import FAMILY, graphs, read_weights
from orchestrator.backends.onnxruntime.session import Session, load, options
from orchestrator.errors import StageError
from orchestrator.graphs import files as onnx_files

if TYPE_CHECKING:
    from orchestrator.backends.base import Arrays

_SUFFIX: Final = "_kernel_time"
_DTYPES: Final = {"float": "float32", "double": "float64", "uint8": "int8"}
#: Operators that take float activations and quantize them inside.
_QUANTIZES: Final = frozenset({"DynamicQuantizeMatMul", "DynamicQuantizeLSTM", "QAttention"})


def observe(model: Path, target: Target, feeds: Arrays, job: Job) -> Observed:
    """Run *model* once on *feeds* under the profiler, loaded as :func:`open_session` loads it.

    Raises:
        StageError: ONNX Runtime refuses the model or the feeds, or its profile names no node.
    """
    chosen = options(target["optimization_level"], job.threads)
    chosen.enable_profiling = True
    chosen.profile_file_prefix = str(job.scratch / "profile")
    with Session(load(model, chosen, target.get("device", "cpu"))) as session:
        session(feeds)
        file = session.end_profiling()
    events = [event for event in json.loads(file.read_text()) if _is_kernel(event)]
    if not events:
        raise StageError(
            "ONNX Runtime's profile holds no node events, so nothing can be said about precision",
            hint="is this version of onnxruntime newer than the project's tests?",
        )
    proto = onnx_files.load(model, weights=False)
    known = _nodes(proto)
    work = [_work(event, known) for event in events]
    weights = read_weights(proto)
    return Observed(weights=weights, work=work, note=_note({w.dtype for w in weights}, work))


def _is_kernel(event: Mapping[str, Any]) -> bool:
    return event.get("cat") == "Node" and str(event.get("name", "")).endswith(_SUFFIX)


def _work(event: Mapping[str, Any], known: Mapping[str, _Node]) -> Work:
    args = event["args"]
    op: str = args["op_name"]
    name = str(event["name"]).removesuffix(_SUFFIX)
    inputs = [_typed(entry) for entry in args.get("input_type_shape", ())]
    outputs = [_typed(entry) for entry in args.get("output_type_shape", ())]
    node = known.get(name)
    if node is not None and node.op != op:
        node = None
    count = flops(
        op,
        [shape for _, shape in inputs],
        outputs[0][1] if outputs else (),
        node.weights if node else {},
        node.attributes if node else {},
    )
    dtype = "int8" if op in _QUANTIZES else (inputs or outputs or [("unknown", ())])[0][0]
    if (
        count is None
    ):  # a convolution or product of unknown size: it must not vanish from the shares
        count, dtype = 1, "unknown"
    return Work(
        name=name,
        op=FAMILY.get(op, op),
        dtype=_DTYPES.get(dtype, dtype),
        flops=count,
        time_us=float(event["dur"]),
    )


def _typed(entry: Mapping[str, list[int]]) -> tuple[str, Shape]:
    return next(iter(entry.items()), ("unknown", []))


class _Node:
    """A node of the model file: operator, shapes of its stored operands, attributes."""

    def __init__(self, node: onnx.NodeProto, shapes: Mapping[str, Shape]) -> None:
        self.op = node.op_type
        self.weights = {at: shapes[name] for at, name in enumerate(node.input) if name in shapes}
        self.attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}


def _nodes(proto: onnx.ModelProto) -> dict[str, _Node]:
    """Return the nodes of *proto* by the name the profiler gives them (``Conv_3`` if nameless)."""
    found: dict[str, _Node] = {}
    for graph in graphs(proto.graph):
        shapes = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
        for index, node in enumerate(graph.node):
            if node.op_type in FAMILY:
                found[node.name or f"{node.op_type}_{index}"] = _Node(node, shapes)
    return found


def _note(stored: set[str], work: list[Work]) -> str:
    wide = sorted({item.op for item in work if item.flops and item.dtype == "float32"})
    if not wide:
        return ""
    listed = ", ".join(wide)
    if "float16" in stored:
        return f"ONNX Runtime runs {listed} on this CPU in fp32, between casts from and to fp16"
    if {"int8", "uint8"} & stored:
        return (
            f"ONNX Runtime dequantizes and runs {listed} in fp32 wherever it finds no quantized "
            "kernel for the pattern (an int8 Conv also needs its output quantized right behind it)"
        )
    return ""
