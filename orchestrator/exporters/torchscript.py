"""The torchscript exporter: traces the module (``torch.onnx.export(dynamo=False)``).

Tracing records one path. What it froze is found by ``contract.check_outputs`` and by judging.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from orchestrator.errors import StageError
from orchestrator.exporters.quiet import captured
from orchestrator.exporters.request import Exported, ExportRequest
from orchestrator.exporters.sources import shorten
from orchestrator.modules.calls import blame, first_lines

if TYPE_CHECKING:
    import torch
    from onnx import ModelProto

LEAST_OPSET, NEWEST_OPSET = 7, 20  # torch.onnx._constants of torch 2.13

_DOC_FRAME = re.compile(r"^(?P<file>[^\n(]+)\((?P<line>\d+)\): ", re.MULTILINE)
_IR_LINE = re.compile(
    r"= (?P<op>[\w:]+)(?:\[.*?\])?\(.*\), scope: (?P<scope>\S*)"
    r"(?: # (?P<file>[^:\n]+):(?P<line>\d+))?"
)
_UNSUPPORTED = re.compile(
    r"operator '(?P<a>[\w:]+)'|namespace (?P<b>[\w:]+)\.|ONNX export of (?P<c>\w+)"
)


def export(request: ExportRequest) -> Exported:
    """Export with ``torch.onnx.export(dynamo=False)``.

    Raises:
        StageError: when the opset is out of range, tracing fails, or an operator has no symbolic.
    """
    import onnx
    import torch

    if not LEAST_OPSET <= request.opset <= NEWEST_OPSET:
        raise StageError(
            f"opset {request.opset} is not supported: the torchscript exporter of torch "
            f"{torch.__version__.partition('+')[0]} writes {LEAST_OPSET} to {NEWEST_OPSET}",
            where="exporter.opset",
            hint="use exporter=dynamo for newer opsets"
            if request.opset > NEWEST_OPSET
            else f"set exporter.opset to {LEAST_OPSET}..{NEWEST_OPSET}",
        )
    path = request.scratch / "traced" / "model.onnx"
    path.parent.mkdir()
    with captured(request.scratch, partial(_log, request)) as printed, _plain_attention():
        try:
            torch.onnx.export(
                request.module,
                tuple(request.inputs.values()),
                str(path),
                input_names=list(request.inputs),
                output_names=list(request.outputs),
                dynamic_axes={name: dict(axes) for name, axes in request.axes.items() if axes},
                opset_version=request.opset,
                do_constant_folding=request.constant_folding,
                dynamo=False,
                verbose=True,  # keeps the source line of every node in its doc string
            )
        except StageError:
            raise
        except Exception as exc:
            raise _error(exc, printed(), request) from exc
    model = onnx.load(str(path))
    return Exported(model=model, provenance=dict(_provenance(model, request.module)))


@contextlib.contextmanager
def _plain_attention() -> Iterator[None]:
    """Let ``nn.MultiheadAttention`` be made of operators that ONNX has, not of one fused one."""
    import torch

    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _log(request: ExportRequest, line: str) -> None:
    """Log *line* unless it belongs to a dump of the graph, which runs to thousands of lines."""
    if not line.startswith((" ", "Exported graph:", "Torch IR graph at exception:")):
        request.log(line)


def _error(exc: Exception, printed: str, request: ExportRequest) -> StageError:
    said = _UNSUPPORTED.search(str(exc))
    operator = next((g for g in said.groups() if g), "") if said else ""
    origin = _origin(operator, printed, request.module)
    if operator and "xport" in str(exc):
        newer = re.search(
            r"(?:in version|opset version) (\d+), try|try opset version (\d+)", str(exc)
        )
        version = next((g for g in newer.groups() if g), "") if newer else ""
        return StageError(
            f"operator {operator}{origin} has no translation to ONNX opset {request.opset}",
            where="export",
            hint=f"set exporter.opset={version} or higher"
            if version
            else "rewrite it with operators that ONNX has, or try exporter=dynamo",
        )
    node = re.search(r"(?:node defined in|has kind) ", str(exc))
    return StageError(
        f"tracing the model failed: {type(exc).__name__}: {first_lines(exc)}"
        + (blame(exc, request.module) or (_first_scope(str(exc), request.module) if node else "")),
        where="export",
        hint="mend the module, or try exporter=dynamo",
    )


def _origin(operator: str, printed: str, module: torch.nn.Module) -> str:
    """Return `` in module 'path' (file:line)`` of *operator* in the graph that torch printed."""
    for line in printed.splitlines():
        found = _IR_LINE.search(line)
        if found and found["op"].rpartition("::")[2] == operator.rpartition("::")[2]:
            path = _scope_path(found["scope"], module)
            source = f"{shorten(found['file'])}:{found['line']}" if found["file"] else ""
            if not source or source.startswith("torch/"):
                source = _forward_of(module, path)
            return f" in module '{path}'" + (f" ({source})" if source else "")
    return ""


def _forward_of(module: torch.nn.Module, path: str) -> str:
    """Return ``file.py:line`` of the ``forward`` of the sub-module at *path*, or ``""``."""
    found = dict(module.named_modules()).get(path)
    code = getattr(getattr(type(found), "forward", None), "__code__", None)
    return f"{shorten(code.co_filename)}:{code.co_firstlineno}" if code is not None else ""


def _first_scope(text: str, module: torch.nn.Module) -> str:
    found = re.search(r"scope: (\S+)", text)
    return f" in module '{_scope_path(found[1], module)}'" if found else ""


def _scope_path(scope: str, module: torch.nn.Module) -> str:
    """Return ``backbone.block1`` of ``pkg.Net::/pkg.Backbone::backbone/pkg.Block::block1``."""
    parts = [part.rpartition("::") for part in scope.split("/")]
    path = _resolve([name for _, _, name in parts if name], module)
    return path or parts[0][0].rpartition(".")[2]


def _resolve(parts: list[str], module: torch.nn.Module) -> str:
    """Return the path of the sub-module that the scope names *parts* lead to, as far as they do.

    A scope name is an attribute (``block1``), or has its parent's attribute before an index: a
    child of a Sequential reads ``block``, ``block.0``; one of a ModuleList just ``layer.0``.
    """
    paths = {path for path, _ in module.named_modules()}
    found = ""
    for part in parts:
        steps = (f"{found}.{part}", f"{found}.{part.rpartition('.')[2]}")
        path = next((step.lstrip(".") for step in steps if step.lstrip(".") in paths), None)
        if path is None:
            break
        found = path
    return found


def _provenance(model: ModelProto, module: torch.nn.Module) -> Iterator[tuple[str, dict[str, str]]]:
    for node in model.graph.node:
        frames = [(shorten(m["file"]), m["line"]) for m in _DOC_FRAME.finditer(node.doc_string)]
        own = [frame for frame in frames if not frame[0].startswith("torch/")]
        yield (
            node.name,
            {
                "op": "",
                "module": _resolve(node.name.strip("/").split("/")[:-1], module),
                "source": ":".join((own or frames)[0]) if frames else "",
            },
        )
