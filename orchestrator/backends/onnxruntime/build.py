"""Building for ONNX Runtime: the graph as it is optimized for this CPU, in a file of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from orchestrator.backends.base import Job, Json, Target
from orchestrator.backends.onnxruntime.qdq import (
    HIDES_INTEGER,
    is_quantized,
    quantize_conv_results,
)
from orchestrator.backends.onnxruntime.session import WEIGHTS_FOLDER, load, open_session, options
from orchestrator.errors import StageError
from orchestrator.graphs import files as onnx_files

#: Widens fp16 initializers to fp32 in the file (level `all`), for kernels that only exist in fp32.
#: The file must keep the storage that was asked for; the widening happens when it is loaded.
KEEPS_FP16: Final = ("FuseFp16InitializerToFp32NodeTransformer",)


def build(model: Path, into: Path, target: Target, job: Job) -> Json:
    """Write the optimized graph of the ONNX tree *model* to *into*, and load it again.

    Above 16 MiB of model the weights are written beside the graph, as ``weights/weights.bin``.

    Returns:
        ``bytes``: total size of the files written.

    Raises:
        StageError: ONNX Runtime refuses the model, or what it wrote does not load, or has other
            inputs or outputs.
    """
    disabled: tuple[str, ...] = KEEPS_FP16
    graph = onnx_files.load(model, weights=False)
    if is_quantized(graph):
        early = quantize_conv_results(graph)
        job.log(f"{early} convolutions are quantized early, for the integer kernels of this CPU")
        prepared = job.scratch / "integer"
        prepared.mkdir()
        onnx_files.save(graph, prepared, source=model)
        model, disabled = prepared, (*KEEPS_FP16, *HIDES_INTEGER)
    chosen = options(target["optimization_level"], threads=1)
    chosen.optimized_model_filepath = str(onnx_files.model_path(into))
    weights = into / WEIGHTS_FOLDER
    if tree_bytes(model) > onnx_files.INLINE_LIMIT_BYTES:
        weights.mkdir()
        prefix = "session.optimized_model_external_initializers_"
        chosen.add_session_config_entry(f"{prefix}file_name", onnx_files.WEIGHTS)
        chosen.add_session_config_entry(
            f"{prefix}min_size_in_bytes", str(onnx_files.TENSOR_MIN_BYTES)
        )
    session = load(model, chosen, target.get("device", "cpu"), disabled=disabled)
    before = [(arg.name, arg.type) for arg in (*session.get_inputs(), *session.get_outputs())]
    del session
    if weights.exists() and not any(weights.iterdir()):
        weights.rmdir()
    with open_session(into, target, job) as written:
        after = [port.name for port in (*written.inputs, *written.outputs)]
    if after != [name for name, _ in before]:
        raise StageError(
            f"the session file that ONNX Runtime wrote has inputs and outputs {after} instead of "
            f"{[name for name, _ in before]}",
            hint="lower target.optimization_level",
        )
    size = tree_bytes(into)
    job.log(f"wrote a session file of {size:,} bytes at level {target['optimization_level']}")
    return {"bytes": size}


def tree_bytes(root: Path) -> int:
    """Return the size of all files below *root*, in bytes, through linked directories."""
    return sum(
        tree_bytes(path) if path.is_dir() else path.stat().st_size for path in root.iterdir()
    )
