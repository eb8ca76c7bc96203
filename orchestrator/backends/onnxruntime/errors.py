"""ONNX Runtime's exceptions, turned into one line that names node, operator and reason."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Final

from orchestrator.errors import StageError, WorkerLostError

_HEAD: Final = re.compile(r"^\[ONNXRuntimeError\] : \d+ : (?P<code>\w+) : (?P<text>.*)", re.S)
_NODE: Final = re.compile(
    r"Non-zero status code returned while running (?P<op>\S+) node\. Name:'(?P<node>[^']*)' "
    r"Status Message: (?P<reason>.*)",
    re.S,
)
_KERNEL: Final = re.compile(
    r"Could not find an implementation for (?P<op>\w+)\((?P<version>\d+)\) "
    r"node with name '(?P<node>.*)'"
)
_GRAPH: Final = re.compile(
    r"In Node, \(\"(?P<node>[^\"]*)\", (?P<op>\w+),.*Error (?P<reason>.*)", re.S
)
_SOURCE: Final = re.compile(r"^\S+\.(?:h|cc):\d+ (?:.*?\) )?")
_MEMORY: Final = re.compile(r"Failed to allocate memory|bad_alloc|bad allocation|BFCArena", re.I)


@contextlib.contextmanager
def translated(doing: str) -> Iterator[None]:
    """Raise ONNX Runtime's errors inside the block as :class:`StageError`.

    Args:
        doing: What was being done, e.g. ``load the session``; stands in the message.

    Raises:
        StageError: the runtime refused the model or a node failed; the same again next time.
        WorkerLostError: it ran out of memory, which may pass.
    """
    try:
        yield
    except Exception as exc:  # ONNX Runtime's exceptions share no base class but Exception
        head = _HEAD.match(str(exc))
        if head is None:
            raise
        text = " ".join(head["text"].split())
        if _MEMORY.search(text):
            raise WorkerLostError(
                f"ONNX Runtime ran out of memory while it tried to {doing}: {_clean(text)}",
                hint="set executor.workers=1, or use smaller shapes in model.dims",
            ) from exc
        raise _stage_error(doing, text) from exc


def _stage_error(doing: str, text: str) -> StageError:
    if found := _NODE.search(text):
        return StageError(
            f"ONNX Runtime could not {doing}: {found['op']} failed: {_clean(found['reason'])}",
            where=f"node '{found['node']}'",
        )
    if found := _KERNEL.search(text):
        return StageError(
            f"ONNX Runtime could not {doing}: it has no CPU kernel for {found['op']} (opset "
            f"{found['version']}) with these types",
            where=f"node '{found['node']}'",
            hint="change the operand's dtype in the model, or keep the node in fp32 "
            "(precision.keep_nodes)",
        )
    if found := _GRAPH.search(text):
        return StageError(
            f"ONNX Runtime could not {doing}: {found['op']}: {_clean(found['reason'])}",
            where=f"node '{found['node']}'",
            hint="is the operator part of the opset the model was exported with? (exporter.opset)",
        )
    return StageError(f"ONNX Runtime could not {doing}: {_clean(text)}")


def _clean(text: str) -> str:
    """Drop the C++ file and function in front of a message."""
    return _SOURCE.sub("", text.strip())
