"""ONNX trees on disk: the only place that reads and writes ``model.onnx`` and its weights.

A tree holds ``model.onnx``. When all initializers together exceed :data:`INLINE_LIMIT_BYTES`, those
of the main graph of at least :data:`TENSOR_MIN_BYTES` live in ``weights/weights.bin``. That file
depends on the *set of contents* alone (ordered by SHA-256, identical tensors once), so stages that
rename, reorder or rewire leave it byte for byte as it was and the store shares it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from orchestrator.errors import StageError
from orchestrator.graphs.weights import (
    ALIGNMENT_BYTES,
    TENSOR_MIN_BYTES,
    WEIGHTS,
    Reader,
    dtype_name,
    embed,
    external_entry,
    is_large,
    nbytes,
    raw_bytes,
    write_weights,
)

if TYPE_CHECKING:
    from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

MODEL = "model.onnx"
INLINE_LIMIT_BYTES = 16 * 2**20


@dataclass(frozen=True, kw_only=True)
class Port:
    """One input or output of a graph.

    Attributes:
        name: Its name.
        dtype: Element type by NumPy's name (``float32``, ``int64``, ``bool``, ``bfloat16``, …);
            empty
            when the file does not say.
        dims: An int for a fixed size, a str for a named one, None for an unknown one; ``dims``
            itself
            is None when even the rank is unknown.
    """

    name: str
    dtype: str
    dims: tuple[int | str | None, ...] | None


@dataclass(frozen=True, kw_only=True)
class GraphFacts:
    """What the manifest and later stages want to know about a model, without its weights.

    Attributes:
        opset: Version of the default operator domain; 0 when the model imports none.
        ir_version: ONNX IR version of the file.
        nodes: Nodes of the main graph, its sub-graphs and local functions.
        weights_bytes: Bytes of all initializers, sub-graphs included, identical ones counted each.
        inputs: Inputs that a caller feeds (initializers listed as inputs are left out), in order.
        outputs: Outputs in order.
    """

    opset: int
    ir_version: int
    nodes: int
    weights_bytes: int
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]


def model_path(tree: Path) -> Path:
    """Return the path of the model file in *tree*."""
    return tree / MODEL


def load(tree: Path, *, weights: bool = True) -> ModelProto:
    """Return the model in *tree*.

    Args:
        tree: Directory with ``model.onnx``.
        weights: False leaves tensors in external files as references, which costs no memory; give
            *tree* as ``source`` to :func:`save` then.

    Raises:
        StageError: when the file is missing or no ONNX, or refers to data outside *tree*.
    """
    return load_file(model_path(tree), weights=weights)


def load_file(path: Path, *, weights: bool = True) -> ModelProto:
    """Return the model in the file *path*; see :func:`load`. External data lie beside it."""
    import onnx

    if not path.is_file():
        raise StageError("there is no such ONNX file", where=str(path), hint="check the path")
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as exc:
        # protobuf's DecodeError; onnx may also refuse the bytes by its own errors.
        raise StageError(
            f"is no ONNX model, or is truncated ({path.stat().st_size} bytes): {exc}",
            where=str(path),
            hint="export or copy the file again; Git LFS pointers are a common cause",
        ) from exc
    if not model.graph.output or not model.opset_import:
        raise StageError(
            f"is no complete ONNX model ({path.stat().st_size} bytes): it has no "
            + ("opset import" if model.graph.output else "graph outputs"),
            where=str(path),
            hint="export or copy the file again",
        )
    files = external_files(model, path.parent)  # checks them
    if weights and files:
        # onnx's own loader refuses a linked directory that leads out of the model's folder, which
        # is
        # what `weights` is in the store (onnx 1.23); external_files has checked the locations.
        with Reader(path.parent) as read:
            for tensor in tensors(model):
                if tensor.data_location == tensor.EXTERNAL:
                    embed(tensor, read(tensor))
    return model


def external_files(model: ModelProto, folder: Path) -> dict[str, int]:
    """Return the external data files *model* refers to and the bytes of each that it needs.

    Names are as in the model, relative to *folder*.

    Raises:
        StageError: when a location is absolute or leaves *folder*, or a file is missing or too
            short.
    """
    needed: dict[str, int] = {}
    for tensor in tensors(model):
        if tensor.data_location != tensor.EXTERNAL:
            continue
        entry = external_entry(tensor)
        location = PurePosixPath(entry["location"].replace("\\", "/"))
        if location.is_absolute() or ".." in location.parts or ":" in entry["location"]:
            raise StageError(
                f"tensor '{tensor.name}' refers to data outside the model's folder: "
                f"{entry['location']!r}",
                where=str(folder),
                hint="save the model with all external data below its own folder",
            )
        end = int(entry.get("offset", "0")) + int(entry.get("length", "0"))
        needed[entry["location"]] = max(end, needed.get(entry["location"], 0))
    for name, size in needed.items():
        path = folder / name
        if not path.is_file():
            raise StageError(
                f"external data file '{name}' is missing",
                where=str(folder),
                hint="copy the weights together with the .onnx file",
            )
        if path.stat().st_size < size:
            raise StageError(
                f"external data file '{name}' is truncated: {path.stat().st_size} of {size} bytes",
                where=str(folder),
                hint="copy the weights again",
            )
    return needed


def save(model: ModelProto, out_dir: Path, *, source: Path | None = None) -> Path:
    """Write *model* as a tree to *out_dir* and return the path of its model file.

    *model* is consumed: afterwards its large tensors are references into the written weights file.

    Args:
        model: The model.
        out_dir: An existing directory.
        source: Directory that external tensors of *model* refer to, when it was loaded without
            them.

    Raises:
        StageError: when the model without its large weights exceeds protobuf's 2 GiB.
    """
    outside = sum(nbytes(tensor) for tensor in initializers(model.graph)) > INLINE_LIMIT_BYTES
    with Reader(source) as reader:
        if outside:
            large = [t for t in model.graph.initializer if is_large(t)]
            write_weights(large, out_dir / WEIGHTS, reader)
            written = {id(tensor) for tensor in large}
        else:
            written = set()
        for tensor in tensors(model):
            if id(tensor) not in written and tensor.data_location == tensor.EXTERNAL:
                embed(tensor, reader(tensor))
    try:
        data = model.SerializeToString(deterministic=True)
    except Exception as exc:
        # protobuf raises EncodeError or ValueError depending on its implementation.
        raise StageError(
            f"the model cannot be written: {exc}",
            hint="a single constant may exceed 2 GiB; keep large tensors as parameters or buffers",
        ) from exc
    model_path(out_dir).write_bytes(data)
    return model_path(out_dir)


def check(path: Path) -> None:
    """Run the ONNX checker on the file *path*, with strict shape and type inference.

    For files just written: the checker refuses a tree of the store whose ``weights`` is a link.

    Raises:
        StageError: when the model is invalid; the message is the checker's first line.
    """
    import onnx

    try:
        onnx.checker.check_model(str(path), full_check=True)
    except Exception as exc:
        # The checker raises ValidationError, shape inference InferenceError, deep ones
        # RuntimeError.
        lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
        text = " ".join(lines[:2])[:600] or type(exc).__name__
        raise StageError(
            f"the ONNX checker refuses the model: {text.replace(str(path), path.name)}",
            hint="this graph cannot be trusted; try another exporter or opset",
        ) from exc


def facts(model: ModelProto) -> GraphFacts:
    """Return the facts of *model*; its weights need not be loaded."""
    opsets = {opset.domain or "ai.onnx": opset.version for opset in model.opset_import}
    named = {tensor.name for tensor in model.graph.initializer}
    nodes = sum(1 for _ in _walk_nodes(model.graph.node))
    nodes += sum(1 for function in model.functions for _ in _walk_nodes(function.node))
    return GraphFacts(
        opset=opsets.get("ai.onnx", 0),
        ir_version=model.ir_version,
        nodes=nodes,
        weights_bytes=sum(nbytes(tensor) for tensor in initializers(model.graph)),
        inputs=tuple(_port(value) for value in model.graph.input if value.name not in named),
        outputs=tuple(_port(value) for value in model.graph.output),
    )


def graph_facts(tree: Path) -> GraphFacts:
    """Return the facts of the model in *tree* without reading its weights file."""
    return facts(load(tree, weights=False))


def subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    """Yield the graphs in the attributes of *node* (bodies of If, Loop, Scan), one level deep."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def initializers(graph: GraphProto) -> Iterator[TensorProto]:
    """Yield the initializers of *graph* and of all graphs below it."""
    yield from graph.initializer
    for node in graph.node:
        for inner in subgraphs(node):
            yield from initializers(inner)


def tensors(model: ModelProto) -> Iterator[TensorProto]:
    """Yield every tensor of *model*: initializers and attributes, sub-graphs, functions, sparse."""
    yield from _graph_tensors(model.graph)
    for function in model.functions:
        for attribute in function.attribute_proto:
            yield from _attribute_tensors(attribute)
        for node in function.node:
            for attribute in node.attribute:
                yield from _attribute_tensors(attribute)


def _graph_tensors(graph: GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        for attribute in node.attribute:
            yield from _attribute_tensors(attribute)


def _attribute_tensors(attribute: AttributeProto) -> Iterator[TensorProto]:
    if attribute.HasField("t"):
        yield attribute.t
    yield from attribute.tensors
    if attribute.HasField("sparse_tensor"):
        yield from (attribute.sparse_tensor.values, attribute.sparse_tensor.indices)
    if attribute.HasField("g"):
        yield from _graph_tensors(attribute.g)
    for graph in attribute.graphs:
        yield from _graph_tensors(graph)


def _walk_nodes(nodes: Iterable[NodeProto]) -> Iterator[NodeProto]:
    for node in nodes:
        yield node
        for graph in subgraphs(node):
            yield from _walk_nodes(graph.node)


def _port(value: ValueInfoProto) -> Port:
    tensor = value.type.tensor_type
    dims: tuple[int | str | None, ...] | None = None
    if tensor.HasField("shape"):
        dims = tuple(
            dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None
            for dim in tensor.shape.dim
        )
    return Port(name=value.name, dtype=dtype_name(tensor.elem_type), dims=dims)


__all__ = [
    "ALIGNMENT_BYTES",
    "INLINE_LIMIT_BYTES",
    "MODEL",
    "TENSOR_MIN_BYTES",
    "WEIGHTS",
    "GraphFacts",
    "Port",
    "check",
    "dtype_name",
    "external_files",
    "facts",
    "graph_facts",
    "initializers",
    "load",
    "load_file",
    "model_path",
    "nbytes",
    "raw_bytes",
    "save",
    "subgraphs",
    "tensors",
]
