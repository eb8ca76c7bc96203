"""What ``worker.py`` uses of TensorRT and CUDA, read from its syntax tree."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from orchestrator.backends.tensorrt import worker
from tests.backends.tensorrt.stubs.bindings import WORKER

#: In worker.py a variable or attribute of this name is always an object of this class.
OBJECTS = {
    "attention": "IAttention",
    "boundary": "IAttentionBoundaryLayer",
    "builder": "Builder",
    "cache": "ITimingCache",
    "config": "IBuilderConfig",
    "context": "IExecutionContext",
    "engine": "ICudaEngine",
    "error": "ParserError",
    "inspector": "EngineInspector",
    "layer": "ILayer",
    "memory": "IHostMemory",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "parser_refitter": "OnnxParserRefitter",
    "profile": "IOptimizationProfile",
    "refitter": "Refitter",
    "registry": "IPluginRegistry",
    "runtime": "Runtime",
    "serialization": "ISerializationConfig",
    "tensor": "ITensor",
}
#: Functions whose ``engine`` is the worker's own class of that name, not TensorRT's.
OWN_ENGINE = {"run", "benchmark", "measure", "_queued_ms", "_items", "Timer"}


@dataclass(frozen=True)
class Use:
    """One use: a dotted name below ``tensorrt``, and how it is used.

    Attributes:
        name: For example ``IBuilderConfig.set_flag`` or ``BuilderFlag``.
        line: Where.
        arguments: Positional arguments of a call; None when it is not called.
        keywords: Keyword arguments of a call.
        assigned: Whether it is assigned to.
    """

    name: str
    line: int
    arguments: int | None = None
    keywords: tuple[str, ...] = ()
    assigned: bool = False


@dataclass(frozen=True)
class CudaUse:
    """One use of the CUDA runtime: a function with its number of arguments, or a constant."""

    name: str
    line: int
    arguments: int | None = None


def tree() -> ast.Module:
    return ast.parse(WORKER.read_text(encoding="utf-8"))


def tensorrt_uses() -> list[Use]:
    """Return every use of TensorRT, without those through the worker's tables."""
    return list(_walk(tree(), ""))


def _walk(node: ast.AST, function: str) -> Iterator[Use]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef) and not function:
        function = node.name
    if isinstance(node, ast.Call):
        name = _named(node.func, function)
        if name and not any(isinstance(argument, ast.Starred) for argument in node.args):
            keywords = tuple(keyword.arg or "**" for keyword in node.keywords)
            explicit_self = name.endswith(".__init__")
            yield Use(name, node.lineno, len(node.args) - explicit_self, keywords)
    if isinstance(node, ast.Attribute):
        name = _named(node, function)
        if name:
            yield Use(name, node.lineno, assigned=isinstance(node.ctx, ast.Store))
    for child in ast.iter_child_nodes(node):
        yield from _walk(child, function)


def _named(node: ast.AST, function: str) -> str | None:
    """Return the name below ``tensorrt`` of an attribute access, None for any other expression."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.insert(0, node.attr)
        node = node.value
    if isinstance(node, ast.Name):
        parts.insert(0, node.id)
    elif not parts:
        return None
    if "trt" in parts[:-1]:
        return ".".join(parts[parts.index("trt") + 1 :])
    owner = parts[-2] if len(parts) > 1 else ""
    own = owner == "engine" and function in OWN_ENGINE and "self" not in parts
    if owner in OBJECTS and not own:
        return f"{OBJECTS[owner]}.{parts[-1]}"
    return None


def table_names() -> set[str]:
    """Return the names below ``tensorrt`` that the worker's tables hold."""
    names = set(worker.AVAILABLE)
    names |= {f"BuilderFlag.{name}" for name in worker.FLAG_OPTIONS.values()}
    names |= {f"BuilderFlag.{name}" for name in worker.REFIT_FLAGS.values()}
    names |= {"BuilderFlag.TF32", "MemoryPoolType.WORKSPACE", "OnnxParserFlag.NATIVE_INSTANCENORM"}
    names |= {f"IBuilderConfig.{name}" for name in worker.PROPERTY_OPTIONS.values()}
    for name, enum in worker.ENUM_OPTIONS.values():
        names |= {f"IBuilderConfig.{name}", enum}
    names |= set(worker.VERB_ENUM.values()) | set(worker.CALIBRATORS.values())
    names |= {f"IPluginRegistry.{name}" for name in worker.CREATOR_LISTS}
    names |= set(worker.NETWORK_NEEDS.values()) | {"Builder.max_threads"}
    names |= {f"BuilderFlag.{name}" for name in worker.CONSTRAINT_FLAGS.values()}
    names |= {f"DataType.{name}" for name in worker.TYPE_WORDS.values()}
    names |= {f"TensorFormat.{name}" for name in worker.LAYOUT_WORDS.values()}
    names |= {f"TensorFormat.{name}" for name in worker.LAYOUTS}
    names |= {f"DataType.{name}" for name in worker.NUMPY_TYPES}
    for kind, (name, attributes) in worker.LAYER_WEIGHTS.items():
        names |= {name, f"LayerType.{kind}"}
        names |= {f"WeightsRole.{role}" for role in attributes}
        names |= {f"{name}.{attribute}" for attribute in attributes.values()}
    return names


def cuda_uses() -> list[CudaUse]:
    """Return every function and constant of the CUDA runtime, with the arguments of calls."""
    found = []
    for node in ast.walk(tree()):
        if isinstance(node, ast.Call) and _last(node.func) == "call" and node.args:
            first = node.args[0]
            if isinstance(first, ast.Constant):
                found.append(CudaUse(str(first.value), node.lineno, len(node.args) - 1))
        elif isinstance(node, ast.Constant) and str(node.value) in (
            "cudaMalloc", "cudaFree", "cudaMallocHost", "cudaFreeHost",
        ):  # fmt: skip
            found.append(CudaUse(str(node.value), node.lineno, 1))
        elif isinstance(node, ast.Call) and _last(node.func) == "attribute":
            found.append(CudaUse(f"cudaDeviceAttr.cudaDevAttr{_text(node)}", node.lineno))
        elif isinstance(node, ast.Attribute):
            parts = ast.unparse(node).split(".")
            if "api" in parts[:-1] and len(parts) - parts.index("api") <= 3:
                found.append(CudaUse(".".join(parts[parts.index("api") + 1 :]), node.lineno))
    return [use for use in found if not use.name.endswith("cudaDevAttr")]


def _last(node: ast.AST) -> str:
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def _text(node: ast.Call) -> str:
    first = node.args[0] if node.args else None
    return str(first.value) if isinstance(first, ast.Constant) else ""
