"""What came out is what was asked for: the file's inputs, outputs, opset and dimensions.

Differences that cannot change what is computed are put right in place (an unused input that the
exporter dropped, the order of inputs, the names of symbolic dimensions); all others are errors.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from orchestrator.errors import StageError, nearest
from orchestrator.graphs import files as onnx_files
from orchestrator.graphs.files import Port

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, ValueInfoProto

    Inputs = Mapping[str, Mapping[str, Any]]
    Dims = Mapping[str, Sequence[int]]


def check_opset(model: ModelProto, opset: int) -> None:
    """Check the opset of the default domain.

    Raises:
        StageError: when it is not *opset*.
    """
    found = onnx_files.facts(model).opset
    if found != opset:
        raise StageError(
            f"the exported file has opset {found}, asked was {opset}",
            where="exporter.opset",
            hint=f"set exporter.opset={found}, or use another exporter",
        )


def mend_inputs(model: ModelProto, inputs: Inputs, dims: Dims) -> None:
    """Add declared inputs that the exporter dropped as unused, and put inputs in declared order."""
    from onnx import TensorProto, helper

    graph = model.graph
    present = {value.name: value for value in graph.input}
    for name in inputs:
        if name not in present:
            elem = {onnx_files.dtype_name(t): t for t in TensorProto.DataType.values()}
            present[name] = helper.make_tensor_value_info(
                name,
                elem[inputs[name]["dtype"]],
                [_size(size, dims) for size in inputs[name]["shape"]],
            )
    ordered = [present[name] for name in inputs]
    rest = [value for name, value in present.items() if name not in inputs]
    copies = [_copy(value) for value in (*ordered, *rest)]
    del graph.input[:]
    graph.input.extend(copies)


def check_ports(
    model: ModelProto, inputs: Inputs, outputs: Sequence[str], dims: Dims, *, where: str
) -> None:
    """Check names and order of inputs and outputs, and the dtypes and sizes of the inputs.

    Raises:
        StageError: naming the input or output, the axis, and both values.
    """
    facts = onnx_files.facts(model)
    _check_names("input", [p.name for p in facts.inputs], list(inputs), where)
    _check_names("output", [p.name for p in facts.outputs], list(outputs), where)
    for port in facts.inputs:
        declared = inputs[port.name]
        if port.dtype != declared["dtype"]:
            raise StageError(
                f"input '{port.name}' is {port.dtype or 'of no tensor type'} in the file, "
                f"{declared['dtype']} in model.inputs",
                where=where,
                hint=f"set model.inputs.{port.name}.dtype={port.dtype}" if port.dtype else "",
            )
        _check_shape(port, declared["shape"], dims, where)


def _check_names(kind: str, found: list[str], declared: list[str], where: str) -> None:
    if found == declared:
        return
    strange = [name for name in declared if name not in found]
    if sorted(found) == sorted(declared):
        message = f"the file's {kind}s are in another order: {found}, declared are {declared}"
    else:
        message = f"the file has the {kind}s {found}, declared are {declared}"
    hint = nearest(strange[0], found) if strange else ""
    raise StageError(message, where=where, hint=hint or f"declare model.{kind}s as {found}")


def _check_shape(port: Port, shape: Sequence[int | str], dims: Dims, where: str) -> None:
    if port.dims is None:
        return
    if len(port.dims) != len(shape):
        raise StageError(
            f"input '{port.name}' has {len(port.dims)} axes in the file {list(port.dims)}, "
            f"{len(shape)} in model.inputs {list(shape)}",
            where=where,
            hint=f"declare its shape as {list(port.dims)}",
        )
    for axis, (found, declared) in enumerate(zip(port.dims, shape, strict=True)):
        wanted = _size(declared, dims)
        if isinstance(found, int) and found != wanted:
            frozen = isinstance(wanted, str)
            raise StageError(
                f"input '{port.name}' axis {axis} is "
                + (
                    f"frozen to {found} in the file, declared is dynamic '{declared}'"
                    if frozen
                    else f"{found} in the file, declared is {wanted}"
                ),
                where=where,
                hint=f"declare it as {found}, or make the model work for other sizes",
            )


def _size(declared: int | str, dims: Dims) -> int | str:
    if isinstance(declared, str) and dims[declared][0] == dims[declared][1]:
        return dims[declared][0]
    return declared


def rename_dims(model: ModelProto, inputs: Inputs, dims: Dims) -> None:
    """Give symbolic dimensions the declared names, wherever they occur."""
    graph = model.graph
    names: dict[str, str] = {}
    for value in graph.input:
        declared = inputs.get(value.name)
        if declared is None:
            continue
        if not value.type.tensor_type.HasField("shape"):
            for _ in declared["shape"]:
                value.type.tensor_type.shape.dim.add()
        for dim, size in zip(value.type.tensor_type.shape.dim, declared["shape"], strict=True):
            wanted = _size(size, dims)
            if dim.HasField("dim_param") and dim.dim_param:
                names.setdefault(dim.dim_param, str(wanted))
            if isinstance(wanted, str):
                dim.dim_param = wanted
            else:
                dim.dim_value = wanted
    names = {old: new for old, new in names.items() if old != new and re.fullmatch(r"\w+", old)}
    if not names:
        return
    pattern = re.compile(r"\b(" + "|".join(map(re.escape, names)) + r")\b")
    for value in _values(graph):
        for dim in value.type.tensor_type.shape.dim:
            if dim.HasField("dim_param"):
                text = pattern.sub(lambda match: names[match[1]], dim.dim_param)
                if text.isdecimal():
                    dim.dim_value = int(text)
                else:
                    dim.dim_param = text


def check_outputs(
    model: ModelProto,
    shapes: Mapping[str, Sequence[Sequence[int]]],
    sizes: Sequence[Mapping[str, int]],
    dtypes: Mapping[str, str],
) -> None:
    """Hold the file's outputs against what the module returned at several sizes.

    Args:
        model: The exported model; names of dynamic output dimensions are put right.
        shapes: For each output the shapes that the module returned, one for each point.
        sizes: The sizes of the dynamic dimensions at each point.
        dtypes: Element type of each output as the module returned it.

    Raises:
        StageError: when an axis that changes with the inputs is a constant in the file, a constant
            one has
            another size, or rank or dtype differ.
    """
    for value in model.graph.output:
        seen = shapes[value.name]
        elem = onnx_files.dtype_name(value.type.tensor_type.elem_type)
        if elem != dtypes[value.name]:
            raise StageError(
                f"output '{value.name}' is {elem or 'untyped'} in the file, the module returns "
                f"{dtypes[value.name]}",
                where="export",
                hint="use another exporter, or convert the output in forward",
            )
        tensor = value.type.tensor_type
        if not tensor.HasField("shape"):
            for _ in seen[0]:
                tensor.shape.dim.add()
        if len(tensor.shape.dim) != len(seen[0]):
            raise StageError(
                f"output '{value.name}' has {len(tensor.shape.dim)} axes in the file, the "
                "module returns "
                f"{len(seen[0])}",
                where="export",
                hint="use another exporter",
            )
        for axis, dim in enumerate(tensor.shape.dim):
            column = [shape[axis] for shape in seen]
            if dim.HasField("dim_value"):
                _check_constant(value.name, axis, dim.dim_value, column, sizes)
            elif name := _matching_dim(column, sizes):
                dim.dim_param = name


def _check_constant(
    name: str, axis: int, found: int, column: list[int], sizes: Sequence[Mapping[str, int]]
) -> None:
    if all(size == found for size in column):
        return
    changing = sorted({d for point in sizes for d in point if len({p[d] for p in sizes}) > 1})
    raise StageError(
        f"output '{name}' axis {axis} is frozen to {found} in the file, but the module returns "
        f"{column} "
        f"as {', '.join(changing) or 'the inputs'} change",
        where="export",
        hint="a size was turned into a Python number while tracing: use tensor.shape in forward "
        "without "
        "int(), or exporter=dynamo",
    )


def _matching_dim(column: list[int], sizes: Sequence[Mapping[str, int]]) -> str:
    """Return the one dimension whose sizes are those of *column*, when they vary; else ``""``."""
    if len(set(column)) < 2:
        return ""
    found = [name for name in sizes[0] if [point[name] for point in sizes] == column]
    return found[0] if len(found) == 1 else ""


def _values(graph: GraphProto) -> Iterator[ValueInfoProto]:
    yield from graph.value_info
    yield from graph.output
    for node in graph.node:
        for inner in onnx_files.subgraphs(node):
            yield from inner.input
            yield from _values(inner)


def _copy(value: ValueInfoProto) -> ValueInfoProto:
    copied = type(value)()
    copied.CopyFrom(value)
    return copied
