"""Sessions: how a tree is loaded, and a runner that checks feeds before the runtime sees them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

import onnxruntime as ort

from orchestrator.backends.base import Job, Port, Target
from orchestrator.backends.onnxruntime.errors import translated
from orchestrator.errors import StageError, nearest
from orchestrator.graphs import files as onnx_files

if TYPE_CHECKING:
    import numpy as np

    from orchestrator.backends.base import Arrays, NamedArrays

WEIGHTS_FOLDER: Final = onnx_files.WEIGHTS.partition("/")[0]
PROVIDERS: Final = {"cpu": ["CPUExecutionProvider"]}
LEVELS: Final = {
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "none": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
}
_DTYPES: Final = {
    "float": "float32", "double": "float64", "float16": "float16", "bool": "bool",
    "int8": "int8", "int16": "int16", "int32": "int32", "int64": "int64",
    "uint8": "uint8", "uint16": "uint16", "uint32": "uint32", "uint64": "uint64",
}  # fmt: skip


class Session:
    """A loaded model; see :class:`orchestrator.backends.base.Runner`."""

    def __init__(self, session: ort.InferenceSession) -> None:
        """Wrap *session*; its inputs and outputs are read once."""
        self._session: ort.InferenceSession | None = session
        self.inputs = tuple(_port(arg) for arg in session.get_inputs())
        self.outputs = tuple(_port(arg) for arg in session.get_outputs())

    def __call__(self, feeds: Arrays) -> NamedArrays:
        """Run once; every output by name, in the model's order.

        Raises:
            StageError: a feed does not fit its input, or a node fails.
        """
        check_feeds(self.inputs, feeds)
        with translated("run the model"):
            arrays = self._loaded().run(None, dict(feeds))
        return {port.name: array for port, array in zip(self.outputs, arrays, strict=True)}

    def repeated(self, feeds: Arrays) -> Callable[[], object]:
        """Run once, then return the plain ``session.run(None, feeds)``; outputs are new each time.

        Raises:
            StageError: a feed does not fit its input, or a node fails.
        """
        self(feeds)
        return partial(self._loaded().run, None, dict(feeds))

    def end_profiling(self) -> Path:
        """Stop the profiler and return the file it wrote."""
        return Path(self._loaded().end_profiling())

    def _loaded(self) -> ort.InferenceSession:
        if self._session is None:
            raise ValueError("the session was closed: use it inside its `with` block")
        return self._session

    def __enter__(self) -> Session:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Let the runtime free the model."""
        self._session = None


def options(level: str, threads: int) -> ort.SessionOptions:
    """Return session options that repeat: sequential, deterministic kernels, *threads* intra-op.

    One thread gives the same bits every time; with more, sums may be split differently.
    """
    chosen = ort.SessionOptions()
    chosen.graph_optimization_level = LEVELS[level]
    chosen.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    chosen.intra_op_num_threads = threads
    chosen.inter_op_num_threads = 1
    chosen.use_deterministic_compute = True
    chosen.log_severity_level = 3  # errors: warnings speak of hardware-specific files, as intended
    return chosen


def load(
    model: Path,
    chosen: ort.SessionOptions,
    device: str = "cpu",
    disabled: tuple[str, ...] = (),
) -> ort.InferenceSession:
    """Load the tree *model* with options *chosen*.

    ONNX Runtime (1.31) refuses external data that resolve to outside of the model's folder, and in
    the store ``weights`` is a link. Then the graph alone is read, its tensors are pointed at the
    file's plain name, and the runtime is told the real folder: weights are mapped, not copied.

    Raises:
        StageError: when the runtime refuses the model.
    """
    weights = model / WEIGHTS_FOLDER
    source: str | bytes = str(onnx_files.model_path(model))
    if weights.is_symlink():
        source = _relocated(model)
        chosen.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", str(weights.resolve())
        )
    with translated("load the model"):
        return ort.InferenceSession(
            source, chosen, providers=PROVIDERS[device], disabled_optimizers=list(disabled)
        )


def _relocated(model: Path) -> bytes:
    from onnx.external_data_helper import uses_external_data

    proto = onnx_files.load(model, weights=False)
    for tensor in onnx_files.tensors(proto):
        if not uses_external_data(tensor):
            continue
        for entry in tensor.external_data:
            if entry.key == "location":
                folder, _, name = entry.value.rpartition("/")
                if folder != WEIGHTS_FOLDER or name in ("", ".", ".."):
                    raise StageError(
                        f"the weights of '{tensor.name}' are in '{entry.value}', "
                        f"not in {WEIGHTS_FOLDER}/",
                        where=onnx_files.MODEL,
                    )
                entry.value = name
    graph: bytes = proto.SerializeToString()
    return graph


def open_session(model: Path, target: Target, job: Job) -> Session:
    """Return the runner of the tree *model*, loaded at ``target.optimization_level``.

    A session tree is loaded at the level it was built with, as a user's plain
    ``InferenceSession(path)`` would do: what is optimized already stays as it is, and weights that
    the file keeps in fp16 are widened once, at load, rather than in every run.

    Raises:
        StageError: when the runtime refuses the model.
    """
    chosen = options(target["optimization_level"], job.threads)
    return Session(load(model, chosen, target.get("device", "cpu")))


def check_feeds(inputs: tuple[Port, ...], feeds: Arrays) -> None:
    """Check *feeds* against *inputs*.

    Raises:
        StageError: a missing or unknown name, another dtype, rank or size.
    """
    names = [port.name for port in inputs]
    for name in feeds:
        if name not in names:
            raise StageError(
                f"the model has no input '{name}'; it has {', '.join(names) or 'none'}",
                where="model.inputs",
                hint=nearest(name, names),
            )
    for port in inputs:
        if port.name not in feeds:
            raise StageError(
                f"input '{port.name}' ({port}) was given no data; the samples hold "
                f"{', '.join(feeds) or 'nothing'}",
                where="model.inputs",
                hint=nearest(port.name, feeds),
            )
        array = feeds[port.name]
        if array.dtype.name != port.dtype or not _fits(port.shape, array):
            sizes = ", ".join(str(n) for n in array.shape)
            raise StageError(
                f"input '{port.name}' takes {port}, got {array.dtype.name}[{sizes}]",
                where=f"model.inputs.{port.name}",
                hint="make model.inputs, model.dims and the sample data agree with the model",
            )


def _fits(shape: tuple[int | None, ...], array: np.ndarray[Any, Any]) -> bool:
    return len(shape) == array.ndim and all(
        size is None or size == got for size, got in zip(shape, array.shape, strict=True)
    )


def _port(arg: Any) -> Port:
    found = arg.type.removeprefix("tensor(").removesuffix(")")
    return Port(
        name=arg.name,
        dtype=_DTYPES.get(found, arg.type),
        shape=tuple(size if isinstance(size, int) else None for size in arg.shape),
    )
