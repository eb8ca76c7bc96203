"""The dynamo exporter: ``torch.export`` captures the module, torch.onnx translates the graph.

It has operators from opset :data:`FIRST_OPSET` on. A lower opset is reached by onnx's version
converter
or refused; torch itself would keep 18 with only a warning (tried with torch 2.13).
"""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from orchestrator.errors import StageError
from orchestrator.exporters.quiet import captured
from orchestrator.exporters.request import Exported, ExportRequest
from orchestrator.exporters.sources import innermost
from orchestrator.exporters.values import rename_values
from orchestrator.graphs import files as onnx_files
from orchestrator.modules.calls import blame, first_lines

if TYPE_CHECKING:
    import torch
    from onnx import ModelProto

FIRST_OPSET = 18
LEAST_OPSET = 7  # what onnx's version converter can aim at


def export(request: ExportRequest) -> Exported:
    """Export with ``torch.onnx.export(dynamo=True)``.

    Raises:
        StageError: when the opset is out of range, the module cannot be captured, an operator has
            no
            translation, or the opset cannot be converted down.
    """
    import onnx

    newest = onnx.defs.onnx_opset_version()
    if not LEAST_OPSET <= request.opset <= newest:
        raise StageError(
            f"opset {request.opset} is not supported: the dynamo exporter with onnx "
            f"{onnx.__version__} writes {FIRST_OPSET} to {newest} (lower ones, from {LEAST_OPSET}, "
            "by conversion)",
            where="exporter.opset",
            hint=f"set exporter.opset to {FIRST_OPSET}..{newest}",
        )
    with captured(request.scratch, request.log):
        program = _capture(request)
        model = _translate(request, program)
        provenance = dict(_provenance(model))
        if _opset(model) != request.opset:
            model = _convert(model, request.opset)
    return Exported(model=model, provenance=provenance)


def _capture(request: ExportRequest) -> torch.export.ExportedProgram:
    import torch

    def attempt(*, named: bool) -> torch.export.ExportedProgram:
        dim = torch.export.Dim
        known: dict[str, Any] = {
            name: dim(name, min=low, max=high) if named else dim.DYNAMIC(min=low, max=high)
            for name, (low, high) in request.ranges.items()
        }
        shapes = tuple(
            {axis: known[d] for axis, d in request.axes[n].items()} for n in request.inputs
        )
        return torch.export.export(
            request.module, tuple(request.inputs.values()), dynamic_shapes=(shapes,), strict=False
        )

    try:
        return attempt(named=True)
    except StageError:
        raise
    except Exception as exc:
        if "Constraints violated" not in str(exc) or "specialized" in str(exc):
            raise _capture_error(exc, request) from exc
        # A relation such as "a multiple of 8": a named Dim refuses it, DYNAMIC keeps it as a guard.
        request.log(f"capturing again without strict dimension constraints: {first_lines(exc, 4)}")
        relation = exc
    try:
        program = attempt(named=False)
    except Exception as exc:
        raise _capture_error(exc, request) from exc
    _check_ranges(program, request, relation)
    return program


def _capture_error(exc: Exception, request: ExportRequest) -> StageError:
    text = re.sub(r"\x1b\[\d+m", "", str(exc))
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    frozen = [line.lstrip("- ") for line in lines if "specialized it to be a constant" in line]
    if frozen:
        said = re.search(r"marked (\S+) as dynamic .* constant \((\d+)\)", frozen[0])
        name, size = said.groups() if said else ("a dimension", "one size")
        at = ", ".join(
            f"input '{i}' axis {axis}"
            for i, axes in request.axes.items()
            for axis, dim in axes.items()
            if dim == name
        )
        return StageError(
            f"the model freezes dimension '{name}' ({at or 'see the log'}) to "
            f"{size}{blame(exc, request.module)}",
            where="model.dims",
            hint=f"compute sizes from the input's shape in forward, or declare '{name}' with "
            "min = max",
        )
    if "data-dependent" in text or "DataDependent" in type(exc).__name__:
        where = blame(exc, request.module)
        code = next((b for a, b in itertools.pairwise(lines) if _is_frame(a)), "")
        return StageError(
            f"control flow depends on the data{where}"
            + (f": {code}" if code else f": {lines[0]}" if lines else ""),
            where="export",
            hint="use torch.where or torch.cond, or keep sizes out of the data; "
            "exporter=torchscript freezes the path that the sample takes",
        )
    return StageError(
        f"torch.export cannot capture the model: {type(exc).__name__}: "
        f"{first_lines(exc, 3)}{blame(exc, request.module)}",
        where="export",
        hint="mend the module, or use exporter=torchscript",
    )


def _is_frame(line: str) -> bool:
    return line.startswith('File "') and ", line " in line


def _check_ranges(
    program: torch.export.ExportedProgram, request: ExportRequest, cause: Exception
) -> None:
    """Refuse a capture that narrowed a declared range: DYNAMIC allows that silently."""
    import torch

    signature = program.graph_signature.user_inputs
    placeholders = {n.name: n for n in program.graph.nodes if n.op == "placeholder"}
    for name, placeholder in zip(request.inputs, signature, strict=True):
        value = placeholders[str(placeholder)].meta["val"]
        for axis, dim in request.axes[name].items():
            size = value.shape[axis]
            low, high = request.ranges[dim]
            if not isinstance(size, torch.SymInt):
                continue
            bounds = program.range_constraints.get(size.node.expr)
            # torch assumes sizes >= 2, which excludes nothing that the translated graph cannot do.
            if bounds is not None and (bounds.upper < high or bounds.lower > max(low, 2)):
                raise StageError(
                    f"the model works for {dim} in {bounds.lower}..{bounds.upper} only "
                    f"(input '{name}' axis {axis}), declared is {low}..{high}",
                    where=f"model.dims.{dim}",
                    hint="declare the range the model can take; torch says: "
                    f"{first_lines(cause, 2)}",
                )


def _translate(request: ExportRequest, program: torch.export.ExportedProgram) -> ModelProto:
    import torch

    # torch does not notice when a declared name is that of a value inside, such as an output called
    # "embedding": neutral names first, the declared ones afterwards.
    inputs = {f"orchestrate::input:{n}": name for n, name in enumerate(request.inputs)}
    outputs = {f"orchestrate::output:{n}": name for n, name in enumerate(request.outputs)}
    try:
        result = torch.onnx.export(
            program,
            (),
            input_names=list(inputs),
            output_names=list(outputs),
            opset_version=max(request.opset, FIRST_OPSET),
            dynamo=True,
            optimize=request.optimize and request.constant_folding,
            verbose=False,
        )
    except Exception as exc:
        raise _translation_error(exc) from exc
    assert result is not None  # torch.onnx.export(dynamo=True) returns a program
    model = result.model_proto
    rename_values(model, inputs | outputs)
    return model


def _translation_error(exc: BaseException) -> StageError:
    import torch

    for node in _failing_nodes(exc):
        if not isinstance(node, torch.fx.Node):
            continue
        path, source = _module_path(node), innermost(node.meta.get("stack_trace") or "")
        cause = exc
        while cause.__cause__ is not None:
            cause = cause.__cause__
        missing = "No ONNX function found" in str(cause) or "No decompositions" in str(cause)
        return StageError(
            f"operator {node.target} in module '{path}'"
            + (f" ({source})" if source else "")
            + (
                " has no translation to ONNX"
                if missing
                else f" cannot be translated: {first_lines(cause)}"
            ),
            where="export",
            hint="rewrite it with operators that ONNX has, or try exporter=torchscript",
        )
    return StageError(
        f"the dynamo exporter failed: {first_lines(exc, 1)}",
        where="export",
        hint="see the action's log, or try exporter=torchscript",
    )


def _failing_nodes(exc: BaseException | None) -> Iterator[object]:
    """Yield the ``node`` variables of the frames that *exc* and its causes passed."""
    while exc is not None:
        trace, found = exc.__traceback__, []
        while trace is not None:
            found.append(trace.tb_frame.f_locals.get("node"))
            trace = trace.tb_next
        yield from reversed([node for node in found if node is not None])
        exc = exc.__cause__


def _module_path(node: torch.fx.Node) -> str:
    stack = node.meta.get("nn_module_stack") or {}
    entries = list(stack.values())
    if not entries:
        return ""
    path, kind = entries[-1]
    name = kind if isinstance(kind, str) else kind.__name__
    return str(path) or name.rpartition(".")[2]


def _provenance(model: ModelProto) -> Iterator[tuple[str, dict[str, str]]]:
    for node in model.graph.node:
        props = {prop.key: prop.value for prop in node.metadata_props}
        scopes = _literal(props.get("pkg.torch.onnx.name_scopes", "[]"))
        kinds = _literal(props.get("pkg.torch.onnx.class_hierarchy", "[]"))
        yield (
            node.name,
            {
                "op": kinds[-1] if kinds else "",
                "module": scopes[-2] if len(scopes) > 1 else "",
                "source": innermost(props.get("pkg.torch.onnx.stack_trace", "")),
            },
        )


def _literal(text: str) -> list[str]:
    try:
        return [str(item) for item in ast.literal_eval(text)]
    except (SyntaxError, ValueError):
        return []


def _opset(model: ModelProto) -> int:
    return onnx_files.facts(model).opset


def _convert(model: ModelProto, opset: int) -> ModelProto:
    import onnx

    for node in model.graph.node:
        # Opset 18 added this attribute to the Reduce operators; its default, written out, is all
        # that
        # keeps the converter's result from being valid 17.
        for number, attribute in reversed(list(enumerate(node.attribute))):
            if attribute.name == "noop_with_empty_axes" and attribute.i == 0:
                del node.attribute[number]
    try:
        converted = onnx.version_converter.convert_version(model, opset)
        onnx.checker.check_model(converted, full_check=True)
    except Exception as exc:
        raise StageError(
            f"the dynamo exporter has operators from opset {FIRST_OPSET} on, and this model "
            "cannot be "
            f"converted from {_opset(model)} to {opset}: {first_lines(exc, 1)}",
            where="exporter.opset",
            hint=f"use exporter=torchscript, or exporter.opset={FIRST_OPSET}",
        ) from exc
    if _opset(converted) != opset:
        raise StageError(
            f"onnx's version converter left the model at opset {_opset(converted)}, asked was "
            f"{opset}",
            where="exporter.opset",
            hint=f"use exporter=torchscript, or exporter.opset={FIRST_OPSET}",
        )
    return converted
