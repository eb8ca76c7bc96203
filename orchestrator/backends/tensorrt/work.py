"""What an engine stores and computes: its inspector's layers as ``Observed``, with FLOPs and types.

**FLOPs** (a multiply-add is two) come from one basis for the whole engine, the best there is:

- ``onnx``: the counts of the ONNX nodes that a layer's ``Metadata`` names; a node that several
  layers name is shared equally among them.
- ``dimensions``: convolution 2 · |out| · W / O, with |out| the elements of its output, W the count
  of its weights and O its output maps (W / O = input channels per group · kernel size); the output
  of a convolution fused with pooling is taken from its input: ⌊(in + pads − dilation·(kernel−1) −
  1) / stride⌋ + 1 per axis. Deconvolution 2 · |in| · W / I, I its input channels. Matrix product
  2 · |out| · K; K is the size of operand A that is not the output's row count, else
  |A| / (|out| / N). Fused attention 4 · |out| · S, S the longest row count among its inputs. A free
  batch (axis 0) counts as 1, so the numbers are per item.
- ``weights``: where some size other than the batch is free, 2 · W for every layer: right for
  matrix products per row, too small for convolutions by their output's size.

**Types** come from, in this order, the tactic's name, the format of the layer's input, the type of
its weights. Float weights without a tactic's name say "fp32 or TF32" and no more.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from orchestrator.backends.base import Observed, Weight, Work
from orchestrator.backends.tensorrt.inspector import Engine, Layer, Tensor
from orchestrator.backends.tensorrt.tactics import multiplies_in

#: ONNX operators that convolve or multiply matrices.
HEAVY: Final = frozenset({
    "Conv", "ConvTranspose", "Gemm", "MatMul", "Einsum", "Attention", "LSTM", "GRU", "RNN",
})  # fmt: skip
_COPIES: Final = frozenset({"Reformat", "NoOp", "MyelinReformat", "Constant", "ShapeHostToDevice"})
_OP_IN_NAME: Final = re.compile(r"(?:^|[/._])(ConvTranspose|Conv|Gemm|MatMul|Einsum)(?:[_\d]*)$")
_FLOAT: Final = ("float32", "tf32")


@dataclass(frozen=True, kw_only=True)
class OnnxNode:
    """A node of the ONNX model an engine was built from.

    Attributes:
        op: Its operator type.
        flops: Its operations at the shapes the engine is audited at; 0 for light operators; None
            where its shapes are not known.
        weighted: Whether it multiplies by a stored weight (not two activations).
    """

    op: str
    flops: int | None = 0
    weighted: bool = True


@dataclass(frozen=True, kw_only=True)
class LayerWork(Work):
    """One layer's convolution or matrix product, or a fused region that hides some.

    Attributes:
        nodes: The ONNX nodes it implements that are convolutions or products, where known.
        ops: Their operator types.
        weighted: Whether it multiplies by a stored weight.
        region: Whether it is a fused region that shows no inner types.
        possible: The types it can be in, where ``dtype`` is unknown; empty: any.
        evidence: What ``dtype`` was read from: ``tactic``, ``format``, ``weights`` or ``none``.
    """

    nodes: tuple[str, ...] = ()
    ops: tuple[str, ...] = ()
    weighted: bool = True
    region: bool = False
    possible: tuple[str, ...] = ()
    evidence: str = "none"


@dataclass(frozen=True, kw_only=True)
class EngineObserved(Observed):
    """An engine as observed: ``work`` holds :class:`LayerWork` for all that multiplies.

    Attributes:
        basis: Where FLOPs come from: ``onnx``, ``dimensions`` or ``weights``.
        unweighed: Layers and regions whose FLOPs are not known (counted as 1).
    """

    basis: str = "dimensions"
    unweighed: tuple[str, ...] = ()


def observe(
    engine: Engine,
    *,
    nodes: Mapping[str, OnnxNode] | None = None,
    times_us: Mapping[str, float] | None = None,
) -> EngineObserved:
    """Return what *engine* stores and computes.

    Args:
        engine: The parsed inspector JSON, best taken with the context's shapes set.
        nodes: The ONNX model's nodes by name. With them, FLOPs are exact, and products that no
            layer admits to are found (work named ``not found in the engine``).
        times_us: Time per layer name, from a profiled run.
    """
    times = times_us or {}
    known = nodes or {}
    heavy = [layer for layer in engine.layers if _is_heavy(layer)]
    regions = [layer for layer in engine.layers if _is_region(layer, known)]
    chosen = {id(layer): _heavy_nodes(layer, known) for layer in (*heavy, *regions)}
    counts, basis = _counts(heavy, chosen, known)
    claims = Counter(node for found in chosen.values() for node in found)
    work: list[Work] = []
    unweighed: list[str] = []
    for layer in (*heavy, *regions):
        found = chosen[id(layer)]
        flops = counts.get(id(layer)) if basis != "onnx" else None
        is_region = any(layer is region for region in regions)
        if basis == "onnx" and (found or is_region):
            # A region that names no node: what it hides is among the nodes that nothing names.
            flops = _shared(found, known, claims)
        if flops is None:
            unweighed.append(layer.name)
        work.append(_work(layer, found, known, flops, times.get(layer.name, 0.0), region=is_region))
    if basis == "onnx":
        silent = [layer.name for layer in regions if not chosen[id(layer)]]
        missing = _unclaimed(known, claims, silent)
        unweighed.extend(item.name for item in missing if item.flops == 1)
        work.extend(missing)
    light = [layer for layer in engine.layers if id(layer) not in chosen]
    work.extend(_light(layer, times.get(layer.name, 0.0)) for layer in light)
    return EngineObserved(
        weights=[weight for layer in engine.layers for weight in _weights(layer, known)],
        work=work,
        note=_note(regions, unweighed),
        basis=basis,
        unweighed=tuple(unweighed),
    )


def _shared(
    found: Sequence[str], known: Mapping[str, OnnxNode], claims: Mapping[str, int]
) -> int | None:
    total = 0.0
    for node in found:
        flops = known[node].flops
        if flops is None:
            return None
        total += flops / claims[node]
    return round(total)


def _is_heavy(layer: Layer) -> bool:
    if layer.kind in _COPIES or "ForeignNode[" in layer.name:
        return False
    return _family(layer) != ""


def _family(layer: Layer) -> str:
    words = f"{layer.kind} {layer.parameter_type}".lower()
    if "deconv" in words:
        return "deconvolution"
    if "conv" in words:
        return "convolution"
    if "_mha" in layer.name or "_mha" in layer.tactic:
        return "attention"
    if "gemm" in words or "matrixmultiply" in words or "fullyconnected" in words:
        return "product"
    return ""


def _is_region(layer: Layer, known: Mapping[str, OnnxNode]) -> bool:
    """Whether *layer* hides its parts: Myelin's on 8.6, and any with a fused graph's name."""
    if layer.kind in _COPIES:
        return False
    if layer.kind != "Myelin" and "ForeignNode[" not in layer.name:
        return False
    if known and layer.nodes:
        return any(known[node].op in HEAVY for node in layer.nodes if node in known)
    return True


def _heavy_nodes(layer: Layer, known: Mapping[str, OnnxNode]) -> tuple[str, ...]:
    names = layer.nodes or tuple(layer.name.split(" + "))
    if known:
        return tuple(name for name in names if name in known and known[name].op in HEAVY)
    named = tuple(name for name in names if _OP_IN_NAME.search(name))
    return named or names[:1]


def _op(layer: Layer, node: str, known: Mapping[str, OnnxNode]) -> str:
    if node in known:
        return known[node].op
    found = _OP_IN_NAME.search(node)
    if found:
        return found[1]
    families = {
        "convolution": "Conv", "deconvolution": "ConvTranspose", "attention": "Attention",
    }  # fmt: skip
    return families.get(_family(layer), "MatMul")


def _counts(
    heavy: Sequence[Layer], chosen: Mapping[int, Sequence[str]], known: Mapping[str, OnnxNode]
) -> tuple[dict[int, int], str]:
    if known and (not heavy or any(chosen[id(layer)] for layer in heavy)):
        return {}, "onnx"
    counted = {id(layer): _from_dimensions(layer) for layer in heavy}
    if all(count is not None for count in counted.values()):
        return {key: count for key, count in counted.items() if count is not None}, "dimensions"
    if any(_free(layer) for layer in heavy):
        return {id(la): 2 * la.weights.count for la in heavy if la.weights}, "weights"
    return {key: count for key, count in counted.items() if count is not None}, "dimensions"


def _free(layer: Layer) -> bool:
    """Whether a size other than the batch is free."""
    return any(-1 in (t.dims or ())[1:] for t in (*layer.inputs, *layer.outputs))


def _dims(tensors: Sequence[Tensor], at: int = 0) -> tuple[int, ...] | None:
    """Return the sizes of a tensor, a free batch as 1; None where others are free or unknown."""
    if at >= len(tensors) or not tensors[at].dims:
        return None
    first, *rest = tensors[at].dims or ()
    if any(n < 0 for n in rest):
        return None
    return (1 if first < 0 else first, *rest)


def _from_dimensions(layer: Layer) -> int | None:
    source, result = _dims(layer.inputs), _dims(layer.outputs)
    if source is None or result is None:
        return None
    match _family(layer):
        case "convolution":
            return _convolution(layer, source, result)
        case "deconvolution" if layer.weights and len(source) > 1:
            return 2 * math.prod(source) * layer.weights.count // source[1]
        case "attention":
            every = [_dims(layer.inputs, at) for at in range(len(layer.inputs))]
            rows = [dims[-2] for dims in every if dims and len(dims) > 1]
            return 4 * math.prod(result) * max(rows) if rows else None
        case "product":
            return _product(layer, source)
        case _:
            return None


def _convolution(layer: Layer, source: Sequence[int], result: Sequence[int]) -> int | None:
    maps = layer.parameters.get("OutMaps", layer.parameters.get("ConvOutMaps"))
    if layer.weights is None or not isinstance(maps, int) or maps <= 0:
        return None
    size = math.prod(result)
    if layer.parameter_type == "ConvActPool":
        spatial = _spatial(layer.parameters, "Conv", source[2:])
        if spatial is None:
            return None
        size = source[0] * maps * math.prod(spatial)
    return 2 * size * layer.weights.count // maps


def _spatial(parameters: Mapping[str, Any], prefix: str, source: Sequence[int]) -> list[int] | None:
    """Return a convolution's output sizes by the formula in the module's text."""
    keys = ("Kernel", "Stride", "Dilation", "PrePadding", "PostPadding")
    values = [parameters.get(prefix + key) for key in keys]
    if not all(isinstance(value, list) and len(value) == len(source) for value in values):
        return None
    kernel, stride, dilation, before, after = (list(value or ()) for value in values)
    return [
        (n + before[i] + after[i] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1
        for i, n in enumerate(source)
    ]


def _product(layer: Layer, left: Sequence[int]) -> int | None:
    """Return 2 · |out| · K over all outputs (several where products of one input were merged)."""
    total = 0
    for at in range(len(layer.outputs)):
        out = _dims(layer.outputs, at)
        if not out or 0 in out:
            return None
        depth = _depth(left, out)
        if depth is None:
            return None
        total += 2 * math.prod(out) * depth
    return total


def _depth(left: Sequence[int], out: Sequence[int]) -> int | None:
    if len(left) > 1 and len(out) > 1:
        if left[-2] == out[-2]:
            return left[-1]
        if left[-1] == out[-2]:
            return left[-2]
    rows = math.prod(out) // out[-1]
    return math.prod(left) // rows if rows and math.prod(left) % rows == 0 else None


def _work(
    layer: Layer,
    found: tuple[str, ...],
    known: Mapping[str, OnnxNode],
    flops: int | None,
    time_us: float,
    *,
    region: bool,
) -> LayerWork:
    dtype, possible, evidence = ("unknown", (), "none") if region else type_of(layer)
    ops = tuple(_op(layer, node, known) for node in found)
    weighted = any(known[node].weighted for node in found if node in known)
    return LayerWork(
        name=layer.name,
        op="fused region" if region else (ops[0] if ops else _op(layer, "", known)),
        dtype=dtype,
        flops=1 if flops is None else flops,
        time_us=time_us,
        nodes=found,
        ops=ops,
        weighted=weighted or layer.weights is not None or not any(n in known for n in found),
        region=region,
        possible=possible,
        evidence=evidence,
    )


def type_of(layer: Layer) -> tuple[str, tuple[str, ...], str]:
    """Return (type, types possible when it is ``unknown``, what says so) of a heavy layer."""
    named = multiplies_in(layer.tactic)
    if named:
        return named, (), "tactic"
    source = layer.inputs[0].dtype if layer.inputs else None
    stored = layer.weights.dtype if layer.weights else None
    for dtype, evidence in ((source, "format"), (stored, "weights")):
        if dtype == "float32":
            return "unknown", _FLOAT, evidence
        if dtype not in (None, "unknown"):
            return str(dtype), (), evidence
    return "unknown", (), "none"


def _unclaimed(
    known: Mapping[str, OnnxNode], claims: Mapping[str, int], silent: Sequence[str]
) -> list[LayerWork]:
    """Return the products of the ONNX model that no heavy layer or region names, as one entry.

    It has the name of the region that hides them, where there is one that names no node: of a
    transformer, 8.6's Myelin makes a single one without metadata.
    """
    every = tuple(
        name
        for name, node in known.items()
        if node.op in HEAVY and node.flops != 0 and not claims.get(name)
    )
    if not every:
        return []
    return [
        LayerWork(
            name=" and ".join(silent) or "not found in the engine",
            op="fused region",
            dtype="unknown",
            flops=_shared(every, known, dict.fromkeys(every, 1)) or 1,
            time_us=0.0,
            nodes=every,
            ops=tuple(known[name].op for name in every),
            weighted=any(known[name].weighted for name in every),
            region=True,
        )
    ]


def _light(layer: Layer, time_us: float) -> Work:
    dtype = layer.inputs[0].dtype if layer.inputs else None
    op = layer.parameter_type or layer.kind
    return Work(name=layer.name, op=op, dtype=dtype or "unknown", flops=0, time_us=time_us)


def _weights(layer: Layer, known: Mapping[str, OnnxNode]) -> list[Weight]:
    found: list[Weight] = []
    if layer.weights:
        nodes = _heavy_nodes(layer, known)
        found.append(
            Weight(
                name=f"{layer.name} (weights)",
                dtype=layer.weights.dtype,
                nbytes=layer.weights.nbytes,
                consumers=tuple(_op(layer, node, known) for node in nodes),
                nodes=nodes,
            )
        )
    if layer.bias:
        name = f"{layer.name} (bias)"
        found.append(Weight(name=name, dtype=layer.bias.dtype, nbytes=layer.bias.nbytes))
    return found


def _note(regions: Sequence[Layer], unweighed: Sequence[str]) -> str:
    parts = []
    if regions:
        parts.append(f"{len(regions)} fused regions of TensorRT show no inner types")
    if unweighed:
        parts.append(f"the work of {len(unweighed)} layers is not known")
    return "; ".join(parts)
