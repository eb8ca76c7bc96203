"""The process that talks to TensorRT: one operation, then it ends.

``python worker.py DIRECTORY`` reads ``DIRECTORY/request.json``, prints JSON lines on stdout
(``{"event": "log", "severity": …, "text": …}``, ``{"event": "progress", "done": …, "text": …}``)
and leaves ``DIRECTORY/result.json`` and the files that the request names. ``python worker.py -``
does the same over pipes: a tar stream on stdin, and on stdout the events, a line ``{"event":
"files", "bytes": N}`` and N bytes of tar with ``result.json`` and every new or changed file.
``python worker.py --op probe`` answers on stdout alone, for people. The exit code is 0 whenever a
result was left; 2 is a wrong command line, 3 a lost peer.

A result is ``{"ok": true, "values": …, "seen": identity}`` or ``{"ok": false, "kind": …, "message":
…, "hint": …, "log": [last lines]}`` with ``seen`` as far as it is known, and ``errors`` where the
ONNX parser gave some. Kinds: ``refused`` (the request cannot be served; the user can mend it),
``mismatch`` (not the TensorRT, device or plan that was expected), ``memory``, ``device``, ``disk``
(no space left), ``builder`` (TensorRT gave up), ``missing`` (a package or library), ``bug`` (ours).

It runs under whatever interpreter has TensorRT: Python >= 3.8, TensorRT 8.6 to 11, NumPy and any
generation of cuda-python, and it may travel as text through ``ssh HOST python -c``. So it imports
nothing of this project and stays one file, longer than a module here would be; its sections hold
one concept each: failures, events and log, versions, options, ONNX files, CUDA, identity,
callbacks, arrays, building, layers and tensors, loading, running, operations, transports, the
process. Only ``trt.*`` names
listed in :data:`AVAILABLE` differ between versions; the contract tests hold this file against real
bindings.
"""

# Paths stay text here: they come from JSON and go to TensorRT and CUDA as text.
# ruff: noqa: PTH100, PTH103, PTH105, PTH108, PTH109, PTH110, PTH112, PTH113, PTH114, PTH116, PTH118, PTH119, PTH120, PTH123, PTH208

from __future__ import annotations

import contextlib
import ctypes
import errno
import faulthandler
import fcntl
import gc
import hashlib
import importlib
import io
import json
import math
import mmap
import os
import platform
import re
import shutil
import statistics
import sys
import tarfile
import tempfile
import threading
import time
import traceback
import zipfile
from collections import deque
from difflib import get_close_matches
from importlib import metadata
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    Json = dict[str, Any]
    Array = Any  # numpy.ndarray; NumPy may be absent where this file is only probed
    Shape = tuple[int, ...]

REQUEST = "request.json"
RESULT = "result.json"

# == Failures ==================================================================================


#: What to do about a kind of failure that says nothing more particular.
HINTS = {
    "memory": "free the GPU's memory, or set a smaller target.workspace_mib or profile",
    "device": "the GPU or its driver failed: look at nvidia-smi and dmesg",
    "mismatch": "build the engine again for this TensorRT and device",
    "disk": "free space there, or set cache.dir; of a toolchain that files travel to, set TMPDIR "
    "in toolchain.command (env TMPDIR=DIRECTORY python3)",
}
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Failure(Exception):  # noqa: N818  (a failure is a value here: it becomes the result)
    """Ends the operation with a result that is not ok.

    Attributes:
        kind: See the module's docstring.
        message: What was wrong, with TensorRT's own words where it has some.
        hint: What to do next; without one, that of its kind in :data:`HINTS`, or none.
        details: Further JSON fields of the result.
    """

    def __init__(self, kind: str, message: str, hint: str = "", **details: Any) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.hint = hint or HINTS.get(kind, "")
        self.details = details


#: Patterns of TensorRT's and CUDA's messages, the first that is found decides the kind.
SYMPTOMS = (
    (
        "memory",
        r"out of memory|OutOfMemory|insufficient memory|cudaErrorMemoryAllocation"
        r"|requested amount of GPU memory|insufficient workspace|allocation fail",
    ),
    (
        "device",
        r"unspecified launch failure|illegal memory access|device-side assert|uncorrectable ECC"
        r"|CUDA initialization failure|misaligned address|cudaErrorNoDevice|device.* is lost",
    ),
    (
        "mismatch",
        r"incompatible device|not compatible with this version|Version tag does not match"
        r"|expecting compute|expecting library version|older plan file",
    ),
)


def classify(lines: Sequence[str], otherwise: str) -> str:
    """Return the kind that *lines* of TensorRT's log speak of, or *otherwise*."""
    text = "\n".join(lines)
    for kind, pattern in SYMPTOMS:
        if re.search(pattern, text, re.IGNORECASE):
            return kind
    return otherwise


def nearest(word: str, known: Iterable[str]) -> str:
    """Return ``did you mean 'x'?`` for the nearest of *known*, or an empty string."""
    found = get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"did you mean '{found[0]}'?" if found else ""


# == Events and log ============================================================================


class Channel:
    """JSON lines to the parent. Thread-safe; TensorRT logs from its own threads.

    A parent that went away is no reason to stop in the directory transport, where the result is
    left for the next run; over pipes nobody can receive it, so *lost* ends the process.
    """

    def __init__(self, stream: BinaryIO, lost: Callable[[], object]) -> None:
        self.stream = stream
        self._lost = lost
        self._lock = threading.Lock()
        self._open = True

    def event(self, event: str, **fields: Any) -> None:
        """Write one line ``{"event": event, **fields}``."""
        line = json.dumps({"event": event, **fields}) + "\n"
        with self._lock:
            if not self._open:
                return
            try:
                self.stream.write(line.encode())
                self.stream.flush()
            except (OSError, ValueError):
                self._open = False
                self._lost()

    def progress(self, done: float, text: str) -> None:
        """Tell that *done* (0 to 1) of the operation is behind us."""
        self.event("progress", done=round(min(max(done, 0.0), 1.0), 4), text=text)

    def close(self) -> None:
        """Write no more events: what follows on the stream is not JSON."""
        with self._lock:
            self._open = False


LEVELS = ("internal_error", "error", "warning", "info", "verbose")


class Log:
    """TensorRT's messages: forwarded as events up to *level*, the last ones and all errors kept."""

    def __init__(self, channel: Channel, level: str = "info", keep: int = 60) -> None:
        self._channel = channel
        self._level = LEVELS.index(level)
        self._tail: deque[str] = deque(maxlen=keep)
        self._errors: list[str] = []
        self._warnings: list[str] = []

    def add(self, severity: str, text: str) -> None:
        """Take one message; messages above the level are dropped."""
        rank = LEVELS.index(severity) if severity in LEVELS else LEVELS.index("info")
        if rank <= 1:
            self._errors.append(text)
        elif rank == 2:
            self._warnings.append(text)
        if rank <= max(self._level, 3):
            self._tail.append(f"[{severity}] {text}")
        if rank <= self._level:
            self._channel.event("log", severity=severity, text=text)

    def tail(self) -> list[str]:
        """Return the last messages, oldest first, each as ``[severity] text``."""
        return list(self._tail)

    def mark(self) -> int:
        """Return a position for :meth:`errors`."""
        return len(self._errors)

    def warnings(self) -> list[str]:
        """Return all warnings, oldest first."""
        return list(self._warnings)

    def errors(self, since: int = 0) -> list[str]:
        """Return the error messages since a :meth:`mark`, oldest first."""
        return self._errors[since:]


def quoted(errors: Sequence[str], limit: int = 4) -> str:
    """Return TensorRT's errors for a message: the first name the cause, the rest the way up."""
    if not errors:
        return "TensorRT gave no reason"
    more = len(errors) - limit
    return "\n".join(errors[:limit]) + (f"\n(and {more} more lines)" if more > 0 else "")


def write_atomically(path: str, parts: Iterable[Any]) -> int:
    """Write byte buffers to *path* so that it is whole or absent; return the number of bytes."""
    temporary = f"{path}.{os.getpid()}.part"
    size = 0
    try:
        with open(temporary, "wb") as file:
            for part in parts:
                size += file.write(part)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    return size


# == Versions ==================================================================================

#: Names that not every supported TensorRT has: (first version with it, first without it again);
#: an empty string is "8.6 has it" or "11.4 still has it". Everything else this file uses is in all.
AVAILABLE = {
    "BuilderFlag.BF16": ("10.0", "11.0"),
    "BuilderFlag.DISABLE_COMPILATION_CACHE": ("10.0", ""),
    "BuilderFlag.DISTRIBUTIVE_INDEPENDENCE": ("10.12", ""),
    "BuilderFlag.EDITABLE_TIMING_CACHE": ("10.8", ""),
    "BuilderFlag.ENABLE_TACTIC_HEURISTIC": ("", "10.0"),
    "BuilderFlag.ERROR_ON_TIMING_CACHE_MISS": ("10.0", ""),
    "BuilderFlag.FP16": ("", "11.0"),
    "BuilderFlag.FP4": ("10.8", "11.0"),
    "BuilderFlag.FP8": ("", "11.0"),
    "BuilderFlag.INT4": ("10.1", "11.0"),
    "BuilderFlag.INT8": ("", "11.0"),
    "BuilderFlag.MONITOR_MEMORY": ("10.6", ""),
    "BuilderFlag.OBEY_PRECISION_CONSTRAINTS": ("", "11.0"),
    "BuilderFlag.PREFER_PRECISION_CONSTRAINTS": ("", "11.0"),
    "BuilderFlag.REFIT_IDENTICAL": ("10.0", ""),
    "BuilderFlag.REFIT_INDIVIDUAL": ("10.2", ""),
    "BuilderFlag.REJECT_EMPTY_ALGORITHMS": ("", "11.0"),
    "BuilderFlag.STRICT_NANS": ("10.6", ""),
    "BuilderFlag.STRIP_PLAN": ("10.0", ""),
    "BuilderFlag.WEIGHT_STREAMING": ("10.0", ""),
    "DataType.BF16": ("10.0", ""),
    "DataType.INT64": ("10.0", ""),
    "EngineStat": ("10.14", ""),
    "EngineStat.TOTAL_WEIGHTS_SIZE": ("10.14", ""),
    "HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY": ("10.9", ""),
    "IAttention.decomposable": ("10.14", ""),
    "IAttention.name": ("10.14", ""),
    "IAttentionBoundaryLayer.attention": ("10.14", ""),
    "IAttentionInputLayer": ("10.14", ""),
    "IBuilderConfig.build_route": ("11.1", ""),
    "IBuilderConfig.int8_calibrator": ("", "11.0"),
    "IBuilderConfig.l2_limit_for_tiling": ("10.8", ""),
    "IBuilderConfig.max_num_tactics": ("10.4", ""),
    "IBuilderConfig.progress_monitor": ("10.0", ""),
    "IBuilderConfig.runtime_platform": ("10.2", ""),
    "IBuilderConfig.set_calibration_profile": ("", "11.0"),
    "IBuilderConfig.tiling_optimization_level": ("10.8", ""),
    "ICudaEngine.create_serialization_config": ("10.0", ""),
    "ICudaEngine.device_memory_size": ("", "11.0"),
    "ICudaEngine.device_memory_size_v2": ("10.1", ""),
    "ICudaEngine.get_engine_stat": ("10.14", ""),
    "ICudaEngine.serialize_with_config": ("10.0", ""),
    "IInt8EntropyCalibrator2": ("", "11.0"),
    "IInt8MinMaxCalibrator": ("", "11.0"),
    "ILayer.precision": ("", "11.0"),
    "ISerializationConfig": ("10.0", ""),
    "ILayer.set_output_type": ("", "11.0"),
    "INetworkDefinition.mark_debug": ("10.0", ""),
    "INetworkDefinition.mark_unfused_tensors_as_debug_tensors": ("10.12", ""),
    "INetworkDefinition.mark_weights_refittable": ("10.2", ""),
    "IPluginRegistry.all_creators": ("10.0", ""),
    "IPluginRegistry.plugin_creator_list": ("", "11.0"),
    "IProgressMonitor": ("10.0", ""),
    "LayerType.ATTENTION_INPUT": ("10.14", ""),
    "MemoryPoolType.TACTIC_SHARED_MEMORY": ("10.0", ""),
    "NetworkDefinitionCreationFlag.EXPLICIT_BATCH": ("", "11.0"),
    "NetworkDefinitionCreationFlag.STRONGLY_TYPED": ("10.0", ""),
    "OnnxParser.set_builder_config": ("10.15", ""),
    "OnnxParserFlag.ADJUST_FOR_DLA": ("10.16", ""),
    "OnnxParserFlag.ENABLE_PLUGIN_OVERRIDE": ("10.15", ""),
    "OnnxParserFlag.ENABLE_UINT8_AND_ASYMMETRIC_QUANTIZATION_DLA": ("10.11", ""),
    "OnnxParserFlag.REPORT_CAPABILITY_DLA": ("10.15", ""),
    "OnnxParserRefitter": ("10.0", ""),
    "ParserError.node_name": ("10.0", ""),
    "ParserError.node_operator": ("10.0", ""),
    "PreviewFeature.ALIASED_PLUGIN_IO_10_03": ("10.3", ""),
    "PreviewFeature.PROFILE_SHARING_0806": ("", "11.0"),
    "PreviewFeature.RUNTIME_ACTIVATION_RESIZE_10_10": ("10.10", ""),
    "RuntimePlatform": ("10.2", ""),
    "RuntimePlatform.SAME_AS_BUILD": ("10.2", ""),
    "RuntimePlatform.WINDOWS_AMD64": ("10.2", ""),
    "SerializationFlag": ("10.0", ""),
    "SerializationFlag.EXCLUDE_WEIGHTS": ("10.0", ""),
    "SerializationFlag.INCLUDE_REFIT": ("10.14", ""),
    "TacticSource.CUBLAS": ("", "11.0"),
    "TacticSource.CUBLAS_LT": ("", "11.0"),
    "TacticSource.CUDNN": ("", "11.0"),
    "TilingOptimizationLevel": ("10.8", ""),
    "TilingOptimizationLevel.FAST": ("10.8", ""),
    "TilingOptimizationLevel.FULL": ("10.8", ""),
    "TilingOptimizationLevel.MODERATE": ("10.8", ""),
    "TilingOptimizationLevel.NONE": ("10.8", ""),
}


def parse_version(text: str) -> Shape:
    """Return the leading integers of a version: ``10.14.1.48.post1`` is (10, 14, 1, 48)."""
    numbers: list[int] = []
    for part in text.split("."):
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers)


def lookup(trt: Any, name: str) -> Any:
    """Return what the dotted *name* means in this TensorRT, or None where it has no such name."""
    found = trt
    for part in name.split("."):
        found = getattr(found, part, None)
        if found is None:
            return None
    return found


def members(trt: Any, enum: str) -> list[str]:
    """Return the member names of an enum of this TensorRT; none where it lacks the enum."""
    return sorted(getattr(lookup(trt, enum), "__members__", {}))


def lacking(name: str, version: str, have: Sequence[str] = ()) -> str:
    """Say that TensorRT *version* has no *name*, when it had, and what is nearest among *have*."""
    first, gone = AVAILABLE.get(name, ("", ""))
    here = parse_version(version)
    if first and here < parse_version(first):
        return f"{name} appeared in TensorRT {first}; this is {version}"
    if gone and here >= parse_version(gone):
        return f"{name} was removed in TensorRT {gone}; this is {version}"
    near = nearest(name.rpartition(".")[2], have)
    return f"TensorRT {version} has no {name}. {near}".rstrip()


# == Options ===================================================================================


class Step(NamedTuple):
    """One thing to set on a builder, its configuration, a parser or a network.

    Attributes:
        option: The option it comes from, for messages.
        verb: ``flag``, ``parser_flag``, ``preview``, ``tactic`` (value: on or off), ``pool``
            (bytes), ``property`` and ``builder`` (the value itself), ``dla`` (a core), or one of
            :data:`NETWORK_NEEDS`.
        name: The member of the verb's enum, or the property of ``IBuilderConfig`` or ``Builder``;
            for a network, the layer or tensor, as the user names it.
        value: See ``verb``; ``Enum.MEMBER`` as a property's value names an enum's member.
    """

    option: str
    verb: str
    name: str
    value: Any


#: Where a verb's names live.
VERB_ENUM = {
    "flag": "BuilderFlag",
    "parser_flag": "OnnxParserFlag",
    "preview": "PreviewFeature",
    "tactic": "TacticSource",
    "pool": "MemoryPoolType",
    "property": "IBuilderConfig",
    "builder": "Builder",
}
#: Options about layers and tensors, which wait until the network is parsed → their steps' verb.
NETWORK_OPTIONS = {
    "input_formats": "input",
    "output_formats": "output",
    "layer_precisions": "precision",
    "layer_output_types": "output_type",
    "layer_device_types": "device",
    "mark_debug": "debug",
    "decomposable_attentions": "decompose",
}
#: Such a verb → what it needs of TensorRT.
NETWORK_NEEDS = {
    "input": "ITensor.allowed_formats",
    "output": "ITensor.allowed_formats",
    "precision": "ILayer.precision",
    "output_type": "ILayer.set_output_type",
    "device": "IBuilderConfig.set_device_type",
    "debug": "INetworkDefinition.mark_debug",
    "unfused": "INetworkDefinition.mark_unfused_tensors_as_debug_tensors",
    "decompose": "IAttention.decomposable",
}
#: Options that :func:`plugins_in_plan` reads.
PLUGIN_OPTIONS = ("plugins_to_serialize", "ignore_parsed_plugin_libs")
CONSTRAINT_FLAGS = {"obey": "OBEY_PRECISION_CONSTRAINTS", "prefer": "PREFER_PRECISION_CONSTRAINTS"}
#: trtexec's words for types and memory layouts of tensors.
TYPE_WORDS = {
    "fp32": "FLOAT",
    "fp16": "HALF",
    "bf16": "BF16",
    "int8": "INT8",
    "int32": "INT32",
    "int64": "INT64",
    "uint8": "UINT8",
    "bool": "BOOL",
}
LAYOUT_WORDS = {
    "chw": "LINEAR",
    "chw2": "CHW2",
    "chw4": "CHW4",
    "chw16": "CHW16",
    "chw32": "CHW32",
    "cdhw32": "CDHW32",
    "hwc": "HWC",
    "hwc8": "HWC8",
    "hwc16": "HWC16",
    "dhwc": "DHWC",
    "dhwc8": "DHWC8",
    "dla_linear": "DLA_LINEAR",
    "dla_hwc4": "DLA_HWC4",
}
FLAG_OPTIONS = {
    "sparsity": "SPARSE_WEIGHTS",
    "strip_weights": "STRIP_PLAN",
    "version_compatible": "VERSION_COMPATIBLE",
    "exclude_lean_runtime": "EXCLUDE_LEAN_RUNTIME",
    "weight_streaming": "WEIGHT_STREAMING",
    "gpu_fallback": "GPU_FALLBACK",
    "direct_io": "DIRECT_IO",
    "strict_nans": "STRICT_NANS",
}
PROPERTY_OPTIONS = {
    "optimization_level": "builder_optimization_level",
    "avg_timing": "avg_timing_iterations",
    "max_aux_streams": "max_aux_streams",
    "max_tactics": "max_num_tactics",
    "l2_limit_tiling": "l2_limit_for_tiling",
    "build_route": "build_route",
}
ENUM_OPTIONS = {
    "hardware_compatibility": ("hardware_compatibility_level", "HardwareCompatibilityLevel"),
    "profiling_verbosity": ("profiling_verbosity", "ProfilingVerbosity"),
    "tiling_level": ("tiling_optimization_level", "TilingOptimizationLevel"),
    "runtime_platform": ("runtime_platform", "RuntimePlatform"),
}
REFIT_FLAGS = {
    "refit": "REFIT",
    "identical": "REFIT_IDENTICAL",
    "individual": "REFIT_INDIVIDUAL",
}
MEMBER_NAME = re.compile(r"[A-Z]\w*\.[A-Z]\w*")
MIB = 1 << 20


def option_steps(options: Mapping[str, Any]) -> list[Step]:
    """Return what *options* set, in order; null and absent options set nothing.

    Raises:
        Failure: an option of an unknown name or value.
    """
    steps: list[Step] = []
    for option, value in options.items():
        if value is not None:
            steps.extend(_steps_of(option, value))
    return steps + _constraint_steps(options)


def _constraint_steps(options: Mapping[str, Any]) -> list[Step]:
    """Return the flags under which types of layers count; fp32 for a layer means no TF32."""
    option = next(
        (name for name in ("layer_precisions", "layer_output_types") if options.get(name)), ""
    )
    if not option:
        return []
    flag = CONSTRAINT_FLAGS[options.get("precision_constraints") or "obey"]
    steps = [Step(option, "flag", flag, True)]
    if "fp32" in (options.get("layer_precisions") or {}).values():
        steps.append(Step("layer_precisions", "flag", "TF32", False))
    return steps


def _steps_of(option: str, value: Any) -> Iterator[Step]:  # noqa: PLR0912  (one branch an option)
    if option in FLAG_OPTIONS:
        yield Step(option, "flag", FLAG_OPTIONS[option], _on(option, value))
    elif option in PROPERTY_OPTIONS:
        yield Step(option, "property", PROPERTY_OPTIONS[option], value)
    elif option in ENUM_OPTIONS:
        name, enum = ENUM_OPTIONS[option]
        yield Step(option, "property", name, f"{enum}.{str(value).upper()}")
    elif option == "refit":
        if value not in REFIT_FLAGS and value != "none":
            known = ", ".join(["none", *REFIT_FLAGS])
            raise Failure("refused", f"refit={value} is not one of {known}")
        if value != "none":
            yield Step(option, "flag", REFIT_FLAGS[value], True)
    elif option == "workspace_mib":
        yield Step(option, "pool", "WORKSPACE", int(value * MIB))
    elif option == "pools":
        for name, mib in value.items():
            yield Step(f"pools.{name}", "pool", name.upper(), int(mib * MIB))
    elif option == "tactic_sources":
        for item in value:
            yield Step(option, "tactic", item.lstrip("+-").upper(), not item.startswith("-"))
    elif option == "preview_features":
        for name, on in value.items():
            yield Step(f"{option}.{name}", "preview", name.upper(), _on(option, on))
    elif option == "native_instancenorm":
        yield Step(option, "parser_flag", "NATIVE_INSTANCENORM", _on(option, value))
    elif option == "parser_flags":
        for name, on in value.items():
            yield Step(f"{option}.{name}", "parser_flag", name.upper(), _on(option, on))
    elif option == "builder_flags":
        for name, on in value.items():
            yield Step(f"{option}.{name}", "flag", name.upper(), _on(option, on))
    elif option == "builder_properties":
        for name, item in value.items():
            yield Step(f"{option}.{name}", "property", name, item)
    elif option == "dla_core":
        yield Step(option, "dla", "", int(value))
    elif option == "max_threads":
        yield Step(option, "builder", option, value)
    elif option == "mix_with":
        for word in value:
            yield Step(option, "flag", word.upper(), True)
    elif option == "mark_unfused_debug":
        if _on(option, value):
            yield Step(option, "unfused", "", True)
    elif option in NETWORK_OPTIONS:
        entries = value.items() if isinstance(value, dict) else ((name, True) for name in value)
        for name, item in entries:
            yield Step(option, NETWORK_OPTIONS[option], name, item)
    elif option not in (*PLUGIN_OPTIONS, "precision_constraints"):
        raise Failure("bug", f"the worker knows no option '{option}'")


def _on(option: str, value: Any) -> bool:
    words = {"enable": True, "disable": False, "none": False}
    found = words.get(value) if isinstance(value, str) else value
    if not isinstance(found, bool):
        raise Failure("refused", f"{option}={value!r} is neither true nor false")
    return found


def io_format(text: str) -> tuple[str | None, list[str]]:
    """Return the DataType and the TensorFormats that ``[type:]layout[+layout…]`` names.

    Raises:
        Failure: bug; the words were checked when the build was planned.
    """
    kind, _, layouts = text.rpartition(":")
    try:
        return TYPE_WORDS[kind] if kind else None, [LAYOUT_WORDS[one] for one in layouts.split("+")]
    except KeyError as exc:
        raise Failure("bug", f"{exc} in '{text}' is no type or layout") from exc


def output_types(value: Any) -> list[str]:
    """Return the words of a ``layer_output_types`` entry: one for all outputs, or one each."""
    return [value] if isinstance(value, str) else list(value)


def precision_steps(precision: Mapping[str, Any]) -> list[Step]:
    """Return the builder flags of a precision request: its weak flags, and TF32 on or off."""
    steps = [Step("precision", "flag", name, True) for name in precision.get("flags", ())]
    if precision.get("tf32") is not None:
        steps.append(Step("tf32", "flag", "TF32", bool(precision["tf32"])))
    if precision.get("keep_layers") or precision.get("keep_op_types"):
        steps.append(Step("keep", "flag", "OBEY_PRECISION_CONSTRAINTS", True))
    return steps


def checked(trt: Any, steps: Sequence[Step]) -> list[Step]:
    """Return *steps* that this TensorRT can take, without those that turn off what it lacks.

    Raises:
        Failure: refused, naming every option that this version lacks and when it had it.
    """
    wrong: list[str] = []
    taken: list[Step] = []
    for step in steps:
        problem = _problem(trt, step)
        if problem is None:
            taken.append(step)
        elif problem:
            wrong.append(f"{step.option}: {problem}")
    if wrong:
        raise Failure(
            "refused",
            "\n".join(wrong),
            "remove the option, or use a toolchain with a TensorRT that has it",
        )
    return taken


def _problem(trt: Any, step: Step) -> str | None:
    """Return why *step* cannot be taken; empty when it may be skipped, None when it can."""
    if step.verb == "dla":
        return None
    version = str(trt.__version__)
    if step.verb in NETWORK_NEEDS:
        missing = [name for name in _needed(step) if lookup(trt, name) is None]
        return f"{step.name}: {lacking(missing[0], version)}" if missing else None
    name = f"{VERB_ENUM[step.verb]}.{step.name}"
    if lookup(trt, name) is None:
        # Turning off what a version never had asks for nothing; a name unknown to all is a typo.
        off = step.value is False and name in AVAILABLE
        return "" if off else lacking(name, version, members(trt, VERB_ENUM[step.verb]))
    value = step.value
    if step.verb == "property":
        if callable(lookup(trt, name)):
            return f"{name} is a method, not a property"
        if isinstance(value, str) and MEMBER_NAME.fullmatch(value) and lookup(trt, value) is None:
            return lacking(value, version, members(trt, value.partition(".")[0]))
    return None


def _needed(step: Step) -> list[str]:
    """Return the TensorRT names that a step about layers or tensors needs."""
    names = [NETWORK_NEEDS[step.verb]]
    if step.verb in ("input", "output"):
        kind, layouts = io_format(step.value)
        names += [f"TensorFormat.{layout}" for layout in layouts]
        names += [f"DataType.{kind}"] if kind else []
    elif step.verb in ("precision", "output_type"):
        names += [f"DataType.{TYPE_WORDS[word]}" for word in output_types(step.value)]
    return names


def apply_steps(work: Building, steps: Sequence[Step]) -> None:
    """Set *steps* on a builder, its configuration and its parser; not those about the network.

    Raises:
        Failure: refused, when TensorRT does not take one: it raises, or only logs an error.
    """
    trt, log, config = work.session.trt, work.session.log, work.config
    sources = config.get_tactic_sources()
    for step in steps:
        if step.verb in NETWORK_NEEDS:
            continue
        before = log.mark()
        try:
            if step.verb == "tactic":
                bit = 1 << int(getattr(trt.TacticSource, step.name))
                sources = sources | bit if step.value else sources & ~bit
                done = config.set_tactic_sources(sources)
            else:
                done = _apply(work, step)
            reason = "it was not taken" if done is False else ""
        except (TypeError, ValueError, RuntimeError, AttributeError) as exc:
            reason = str(exc).splitlines()[0]
        errors = log.errors(before)
        if errors or reason:
            text = quoted(errors) if errors else reason
            raise Failure("refused", f"{step.option}={step.value}: {text}")


def _apply(work: Building, step: Step) -> Any:
    trt, builder, config, parser = work.session.trt, work.builder, work.config, work.parser
    if step.verb == "dla":
        if step.value >= builder.num_DLA_cores:
            raise ValueError(f"this device has {builder.num_DLA_cores} DLA cores")
        config.default_device_type = trt.DeviceType.DLA
        config.DLA_core = step.value
    elif step.verb == "builder":
        setattr(builder, step.name, step.value)
    elif step.verb == "property":
        value = step.value
        if isinstance(value, str) and MEMBER_NAME.fullmatch(value):
            value = lookup(trt, value)
        setattr(config, step.name, value)
    else:
        member = lookup(trt, f"{VERB_ENUM[step.verb]}.{step.name}")
        if step.verb == "pool":
            return config.set_memory_pool_limit(member, step.value)
        if step.verb == "preview":
            return config.set_preview_feature(member, step.value)
        if step.verb == "parser_flag":
            if step.name == "REPORT_CAPABILITY_DLA" and step.value:
                parser.set_builder_config(config)  # what the DLA is asked with
            return parser.set_flag(member) if step.value else parser.clear_flag(member)
        return config.set_flag(member) if step.value else config.clear_flag(member)
    return None


# == ONNX files ================================================================================


class OnnxNode(NamedTuple):
    """A node of the main graph: its name (may be empty) and operator."""

    name: str
    op_type: str


class OnnxGraph(NamedTuple):
    """The main graph: its nodes in file order, and the names of its weights."""

    nodes: Sequence[OnnxNode]
    initializers: Sequence[str]


def _fields(data: Any, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield (field number, start, end) of the length-delimited fields of a protobuf message.

    The wire format is that of protobuf.dev/programming-guides/encoding; other fields are skipped.
    """

    def varint(at: int) -> tuple[int, int]:
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, at
            shift += 7

    at = start
    while at < end:
        tag, at = varint(at)
        wire = tag & 7
        if wire == 0:
            _, at = varint(at)
        elif wire == 1:
            at += 8
        elif wire == 5:
            at += 4
        elif wire == 2:
            size, at = varint(at)
            yield tag >> 3, at, at + size
            at += size
        else:
            raise ValueError(f"wire type {wire}")


def read_onnx(path: str) -> OnnxGraph:
    """Return nodes and names of weights of the main graph, without reading weights.

    ``ModelProto.graph`` is field 7, ``GraphProto.node`` 1 and ``initializer`` 5, ``NodeProto.name``
    3 and ``op_type`` 4, ``TensorProto.name`` 8 (onnx.proto). The toolchain's interpreter has no
    onnx package, and TensorRT 8.6 tells parser errors by node index only. A file that is no ONNX
    model gives an empty graph: what is wrong with it, TensorRT says.
    """
    nodes: list[OnnxNode] = []
    weights: list[str] = []
    try:
        with open(path, "rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        graphs = [(start, end) for number, start, end in _fields(data, 0, len(data)) if number == 7]
        for number, start, end in _fields(data, *graphs[-1]):
            if number == 1:
                texts = _texts(data, start, end, (3, 4))
                nodes.append(OnnxNode(texts.get(3, ""), texts.get(4, "")))
            elif number == 5:
                weights.append(_texts(data, start, end, (8,)).get(8, ""))
    except (OSError, ValueError, IndexError):
        return OnnxGraph((), ())
    return OnnxGraph(nodes, weights)


def _texts(data: Any, start: int, end: int, numbers: Sequence[int]) -> dict[int, str]:
    """Return the text fields *numbers* of a message."""
    return {
        number: data[first:last].decode()
        for number, first, last in _fields(data, start, end)
        if number in numbers
    }


# == CUDA ======================================================================================


class Cuda:
    """The CUDA runtime through cuda-python of any generation, with errors as failures."""

    def __init__(self, api: Any) -> None:
        self.api = api

    def call(self, function: str, *arguments: Any) -> Any:
        """Return what *function* gives besides its status: None, a value, or a tuple of values.

        Raises:
            Failure: kind ``memory`` or ``device``.
        """
        try:
            status, *values = getattr(self.api, function)(*arguments)
        except RuntimeError as exc:  # cuda-python before 12.8: "Failed to dlopen libcuda.so.1"
            raise Failure("device", f"{function}: {exc}", NO_DRIVER) from exc
        if int(status) != 0:
            name = str(getattr(status, "name", status))
            kind = "memory" if "MemoryAllocation" in name else "device"
            raise Failure(kind, f"{function}({_sizes(arguments)}) failed: {name}")
        return None if not values else values[0] if len(values) == 1 else tuple(values)

    def attribute(self, name: str, device: int) -> int:
        """Return the device attribute ``cudaDevAttr<name>``."""
        return int(
            self.call("cudaDeviceGetAttribute", getattr(self.api.cudaDeviceAttr, name), device)
        )


NO_DRIVER = "install the NVIDIA driver, or give this toolchain a GPU (docker run --gpus …)"
VISIBLE = "CUDA_VISIBLE_DEVICES"


def _sizes(arguments: Sequence[Any]) -> str:
    return ", ".join(str(item) for item in arguments if isinstance(item, int))


def load_cuda() -> Cuda:
    """Return the CUDA runtime.

    Raises:
        Failure: missing, when no cuda-python is installed.
    """
    problems = []
    for module in ("cuda.bindings.runtime", "cuda.cudart"):
        try:
            return Cuda(importlib.import_module(module))
        except ImportError as exc:
            problems.append(f"{module}: {exc}")
    raise Failure(
        "missing",
        f"no CUDA for Python in {sys.executable}: " + "; ".join(problems),
        "pip install 'cuda-python>=12' into the toolchain's environment",
    )


def device_count(cuda: Cuda) -> int:
    """Return the number of visible devices, at least 1.

    Asked before any other call: ``trt.Runtime`` without a driver crashes the process (8.6.0).

    Raises:
        Failure: device, when there is none.
    """
    try:
        count = int(cuda.call("cudaGetDeviceCount"))
        reason = "" if count else "cudaErrorNoDevice"
    except Failure as exc:
        count, reason = 0, exc.message
    if count:
        return count
    visible = os.environ.get(VISIBLE)
    if visible is not None and "cudaErrorNoDevice" in reason:
        text = f"no CUDA device: {VISIBLE}={visible!r} names none that is there"
        raise Failure("device", text, f"unset {VISIBLE}, or name a GPU that nvidia-smi -L lists")
    raise Failure("device", f"no CUDA device: {reason}", NO_DRIVER)


class Buffer:
    """Memory that only grows, on the device or pinned on the host; freed by :meth:`free`."""

    def __init__(self, cuda: Cuda, host: bool) -> None:
        self._cuda = cuda
        self._functions = ("cudaMallocHost", "cudaFreeHost") if host else ("cudaMalloc", "cudaFree")
        self.address = 0
        self.capacity = 0

    def reserve(self, size: int) -> int:
        """Return the address of at least *size* bytes; what was there is lost when it grows.

        Raises:
            Failure: memory.
        """
        if size > self.capacity or not self.address:
            self.free()
            rounded = max(256, -(-size // 256) * 256)  # an empty tensor needs an address too
            self.address = int(self._cuda.call(self._functions[0], rounded))
            self.capacity = rounded
        return self.address

    def free(self) -> None:
        """Give the memory back."""
        if self.address:
            address, self.address, self.capacity = self.address, 0, 0
            self._cuda.call(self._functions[1], address)


def pinned_array(address: int, dtype: str, shape: Shape) -> Array:
    """Return the memory at *address* as an array, not copied."""
    import numpy as np

    count = math.prod(shape)
    if count == 0:
        return np.empty(shape, dtype)
    raw = (ctypes.c_uint8 * (count * np.dtype(dtype).itemsize)).from_address(address)
    return np.frombuffer(memoryview(raw), dtype).reshape(shape)


class ProcessInfo(ctypes.Structure):
    """nvml.h: ``nvmlProcessInfo_v2_t``."""

    _fields_: ClassVar = [
        ("pid", ctypes.c_uint),
        ("used_bytes", ctypes.c_ulonglong),
        ("gpu_instance", ctypes.c_uint),
        ("compute_instance", ctypes.c_uint),
    ]


class Nvml:
    """What NVML says of a device now; nothing, or None, where there is no NVML.

    Through the driver's ``libnvidia-ml.so.1``: the toolchain need not have a Python package for it.
    """

    # Field: NVML function, then the arguments before the result (nvml.h: NVML_CLOCK_SM 1,
    # NVML_CLOCK_MEM 2, NVML_TEMPERATURE_GPU 0).
    CLOCKS: ClassVar = {
        "sm_clock_mhz": ("nvmlDeviceGetClockInfo", (1,)),
        "memory_clock_mhz": ("nvmlDeviceGetClockInfo", (2,)),
        "temperature_c": ("nvmlDeviceGetTemperature", (0,)),
        "power_mw": ("nvmlDeviceGetPowerUsage", ()),
    }

    def __init__(self, uuid: str) -> None:
        self._nvml: Any = None
        self._device = ctypes.c_void_p()
        try:
            nvml = ctypes.CDLL("libnvidia-ml.so.1")
            if nvml.nvmlInit_v2() == 0:
                found = nvml.nvmlDeviceGetHandleByUUID(uuid.encode(), ctypes.byref(self._device))
                self._nvml = nvml if found == 0 else None
        except (OSError, AttributeError):
            return

    def clocks(self) -> Json:
        """Return every field of :attr:`CLOCKS`, and ``throttle_reasons`` (NVML's bit mask)."""
        fields: Json = {}
        for field, (function, arguments) in self.CLOCKS.items():
            fields[field] = self._ask(function, ctypes.c_uint(), *arguments)
        fields["throttle_reasons"] = self._ask(
            "nvmlDeviceGetCurrentClocksThrottleReasons", ctypes.c_ulonglong()
        )
        return fields

    def driver(self) -> str | None:
        """Return the driver's version, e.g. ``580.95.05``."""
        text = ctypes.create_string_buffer(96)
        if self._nvml is None or self._nvml.nvmlSystemGetDriverVersion(text, 96) != 0:
            return None
        return text.value.decode()

    def processes(self) -> dict[int, str]:
        """Return number → name of each process that computes on the device; '' where unknown.

        In a container the numbers may be the host's, and there may be none.

        Through ``_v2``, of drivers since 450: 535.43 and its next ones fill ``_v3`` with structures
        of another size.
        """
        ask = getattr(self._nvml, "nvmlDeviceGetComputeRunningProcesses_v2", None)
        count, found = ctypes.c_uint(1024), (ProcessInfo * 1024)()
        if ask is None or ask(self._device, ctypes.byref(count), found) != 0:
            return {}
        return {one.pid: self._name(one.pid) for one in found[: count.value]}

    def _name(self, pid: int) -> str:
        ask = getattr(self._nvml, "nvmlSystemGetProcessName", None)
        text = ctypes.create_string_buffer(256)
        if ask is None or ask(ctypes.c_uint(pid), text, 256) != 0:
            return ""
        return os.path.basename(text.value.decode(errors="replace"))

    def _ask(self, function: str, value: Any, *arguments: int) -> int | None:
        asked = getattr(self._nvml, function, None)
        if asked is None or asked(self._device, *arguments, ctypes.byref(value)) != 0:
            return None
        return int(value.value)


class Neighbours:
    """Processes of others on the device that this one has; made before it uses the device.

    NVML may list this process too, in a container under a number that only the host knows it by. So
    what is listed before this process uses the device is not it; and what is listed later counts
    only where this process finds itself in the list.
    """

    def __init__(self, nvml: Nvml) -> None:
        self.nvml = nvml
        own = family()
        self._before = {pid: name for pid, name in nvml.processes().items() if pid not in own}

    def seen(self) -> list[Json]:
        """Return ``pid`` and ``name`` of each, of now and of the beginning."""
        own, now = family(), self.nvml.processes()
        found = dict(self._before)
        if any(pid in now for pid in threads()):
            found.update((pid, name) for pid, name in now.items() if pid not in own)
        return [{"pid": pid, "name": name} for pid, name in sorted(found.items())]


def threads() -> set[int]:
    """Return the numbers of this process and its threads."""
    return {int(name) for name in os.listdir("/proc/self/task")}


def family() -> set[int]:
    """Return the numbers of this process, its threads and its ancestors."""
    found, pid = threads(), os.getppid()
    while pid and pid not in found:
        found.add(pid)
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                pid = int(file.read().rpartition(b")")[2].split()[1])
        except OSError:  # it has just ended
            break
    return found


# == Identity ==================================================================================

#: Distributions that bring the Python bindings; the most specific first, so that a plain
#: ``tensorrt`` that only pulls in one of the others does not hide which CUDA it is for.
DISTRIBUTIONS = (
    "tensorrt-cu13",
    "tensorrt-cu12",
    "tensorrt-cu11",
    "tensorrt-cu13-bindings",
    "tensorrt-cu12-bindings",
    "tensorrt-cu11-bindings",
    "tensorrt",
    "tensorrt-bindings",
)
#: What may differ between the probe and the build: it does not decide what is built.
#: A driver may keep some more megabytes than the one before: memory counts in GiB.
UNPINNED = ("cuda_driver", "driver", "python", "device.uuid", "device.memory_bytes")


def load_tensorrt() -> Any:
    """Return the ``tensorrt`` module.

    Raises:
        Failure: missing. A module that is there but cannot load its libraries is told apart from
        none.
    """
    where = f"in {sys.executable}"
    try:
        return importlib.import_module("tensorrt")
    except ModuleNotFoundError as exc:
        if (exc.name or "").partition(".")[0] == "tensorrt":
            raise Failure(
                "missing",
                f"TensorRT is not installed {where}",
                "set toolchain.command to a Python that has it, or install it there: "
                "pip install tensorrt",
            ) from exc
        raise Failure("missing", f"TensorRT {where} needs a package: {exc}") from exc
    except ImportError as exc:
        raise Failure(
            "missing",
            f"TensorRT {where} cannot load its libraries: {exc}",
            "install the libraries of this TensorRT, or name their directory in LD_LIBRARY_PATH",
        ) from exc


def load_numpy() -> Any:
    """Return ``numpy``.

    Raises:
        Failure: missing.
    """
    try:
        return importlib.import_module("numpy")
    except ImportError as exc:
        raise Failure(
            "missing",
            f"NumPy cannot be imported in {sys.executable}: {exc}",
            "pip install numpy into the toolchain's environment",
        ) from exc


def bindings_of(version: str, installed: Mapping[str, str]) -> str:
    """Return the distribution that brings TensorRT *version*, e.g. ``tensorrt-cu12``.

    Args:
        version: ``trt.__version__``.
        installed: Version of each installed distribution of :data:`DISTRIBUTIONS`.

    Returns:
        The first of the same version (``…-bindings`` without that suffix), or an empty string: a
        system package, or a folder of somebody's own.
    """
    wanted = parse_version(version)[:3]
    for name in DISTRIBUTIONS:
        if name in installed and parse_version(installed[name])[:3] == wanted:
            return name[: -len("-bindings")] if name.endswith("-bindings") else name
    return ""


def _installed() -> dict[str, str]:
    found: dict[str, str] = {}
    for name in DISTRIBUTIONS:
        for spelling in (name, name.replace("-", "_")):
            with contextlib.suppress(metadata.PackageNotFoundError):
                found.setdefault(name, metadata.version(spelling))
    return found


def cuda_version(number: int) -> str:
    """Return CUDA's version number as text: 12040 is ``12.4``."""
    return f"{number // 1000}.{number % 1000 // 10}"


def interpreter_identity() -> Json:
    """Return what is known before TensorRT is imported.

    ``NVIDIA_TF32_OVERRIDE=0`` takes TF32 out of every engine that is built or run under it.
    """
    return {
        "nvidia_tf32_override": os.environ.get("NVIDIA_TF32_OVERRIDE", ""),
        "python": platform.python_version(),
        "platform": f"{sys.platform}-{platform.machine()}",
    }


def tensorrt_identity(trt: Any) -> Json:
    """Return TensorRT's version and where it comes from."""
    version = str(trt.__version__)
    return {
        "tensorrt": version,
        "tensorrt_major": parse_version(version)[0],
        "bindings": bindings_of(version, _installed()),
    }


def device_identity(cuda: Cuda, device: int) -> Json:
    """Return CUDA's versions and what of the device decides whether a plan loads and how fast."""
    properties = cuda.call("cudaGetDeviceProperties", device)

    def attribute(name: str) -> int:
        return cuda.attribute(f"cudaDevAttr{name}", device)

    major, minor = attribute("ComputeCapabilityMajor"), attribute("ComputeCapabilityMinor")
    return {
        "cuda_runtime": cuda_version(int(cuda.call("cudaRuntimeGetVersion"))),
        "cuda_driver": cuda_version(int(cuda.call("cudaDriverGetVersion"))),
        "device": {
            "name": properties.name.split(b"\0")[0].decode(),
            "compute_capability": f"{major}.{minor}",
            "sms": attribute("MultiProcessorCount"),
            "memory_bytes": int(properties.totalGlobalMem),
            "memory_gib": round(int(properties.totalGlobalMem) / (1 << 30)),
            "memory_bus_bits": attribute("GlobalMemoryBusWidth"),
            "l2_bytes": attribute("L2CacheSize"),
            "shared_memory_per_block": attribute("MaxSharedMemoryPerBlock"),
            "shared_memory_per_sm": attribute("MaxSharedMemoryPerMultiprocessor"),
            "integrated": bool(attribute("Integrated")),
            "ecc": bool(attribute("EccEnabled")),
            "uuid": device_uuid(bytes(properties.uuid.bytes)),
        },
    }


def equal_devices(cuda: Cuda, device: int, count: int) -> list[str]:
    """Return the UUIDs of *device* and of those of *count* devices that serve as well as it."""
    every = [device_identity(cuda, number) for number in range(count)]
    chosen = every.pop(device)
    return [one["device"]["uuid"] for one in (chosen, *every) if not differences(chosen, one)]


def device_uuid(raw: bytes) -> str:
    """Return 16 bytes as NVIDIA's tools write them: ``GPU-8-4-4-4-12`` hexadecimal digits."""
    text = raw.hex()
    return "GPU-" + "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:32]))


def differences(
    expected: Mapping[str, Any], seen: Mapping[str, Any], prefix: str = ""
) -> list[str]:
    """Return how *seen* differs from *expected*, one ``name: expected …, found …`` each.

    Only what *expected* names is compared, without :data:`UNPINNED`.
    """
    found: list[str] = []
    for name, value in expected.items():
        here = seen.get(name)
        if prefix + name in UNPINNED:
            continue
        if isinstance(value, dict) and isinstance(here, dict):
            found.extend(differences(value, here, f"{prefix}{name}."))
        elif value != here:
            wanted, has = ("nothing" if one == "" else one for one in (value, here))
            found.append(f"{prefix}{name}: expected {wanted}, found {has}")
    return found


#: Highest ONNX opset of the parsers whose documentation says it, by first TensorRT version.
OPSETS = (((8, 6), 17), ((10, 0), 20), ((10, 15), 24), ((11, 0), 25))


def capabilities(trt: Any) -> Json:
    """Return what this TensorRT has, by name, as far as its Python bindings show it.

    ``precisions`` are those that some lowering reaches; whether the device has them is not asked.
    ``opset`` is the documented maximum of the newest release not after this one; a parser may
    accept more.
    """
    version = parse_version(str(trt.__version__))
    typed = lookup(trt, "NetworkDefinitionCreationFlag.STRONGLY_TYPED") is not None
    weak = lookup(trt, "BuilderFlag.FP16") is not None
    precisions = ["fp32", "tf32", "fp16", "int8"]
    if typed:
        precisions += [
            name
            for name, member in (("bf16", "BF16"), ("fp8", "FP8"), ("int4", "INT4"), ("fp4", "FP4"))
            if lookup(trt, f"DataType.{member}") is not None
        ]
    config = trt.IBuilderConfig
    return {
        "typed": typed,
        "weak": weak,
        "precisions": precisions,
        "opset": max((opset for first, opset in OPSETS if version >= first), default=None),
        "calibrators": [
            algorithm for algorithm, name in CALIBRATORS.items() if lookup(trt, name) is not None
        ],
        "progress": lookup(trt, "IProgressMonitor") is not None,
        "onnx_refitter": lookup(trt, "OnnxParserRefitter") is not None,
        "builder_flags": members(trt, "BuilderFlag"),
        "parser_flags": members(trt, "OnnxParserFlag"),
        "pools": members(trt, "MemoryPoolType"),
        "tactic_sources": members(trt, "TacticSource"),
        "preview_features": members(trt, "PreviewFeature"),
        "hardware_compatibility": members(trt, "HardwareCompatibilityLevel"),
        "profiling_verbosity": members(trt, "ProfilingVerbosity"),
        "data_types": members(trt, "DataType"),
        "builder_properties": sorted(
            name
            for name in dir(config)
            if not name.startswith("_") and not callable(getattr(config, name))
        ),
    }


CALIBRATORS = {"entropy2": "IInt8EntropyCalibrator2", "minmax": "IInt8MinMaxCalibrator"}


# == Session ===================================================================================


PROBE_AGAIN = "run again: the remembered probe of this toolchain is dropped"
#: A plugin registry's list of what is registered: since 10.0, before 11.0.
CREATOR_LISTS = ("all_creators", "plugin_creator_list")


class Laps:
    """Where an operation's wall time goes, in seconds by name."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._since = time.perf_counter()

    def lap(self, name: str) -> None:
        """Count the time since the last lap, or since the beginning, as *name*."""
        now = time.perf_counter()
        self._seconds[name] = self._seconds.get(name, 0.0) + now - self._since
        self._since = now

    def report(self, inside: str) -> dict[str, float]:
        """Return every lap's seconds, and as ``outside`` the sum of all but *inside*."""
        outside = math.fsum(value for name, value in self._seconds.items() if name != inside)
        return {
            name: round(value, 4) for name, value in (*self._seconds.items(), ("outside", outside))
        }


class Session:
    """One operation's surroundings: the request's directory, TensorRT, CUDA, log and events."""

    def __init__(self, directory: str, request: Json, channel: Channel) -> None:
        self.laps = Laps()
        self.directory = directory
        self.request = request
        self.channel = channel
        self.log = Log(channel, request.get("log_level", "info"))
        self.seen = interpreter_identity()
        self.trt: Any = None
        self.cuda: Any = None
        self.logger: Any = None
        self.device = 0
        self.neighbours: Any = None

    def open(self) -> None:
        """Import TensorRT, find the device, and hold both against what was expected.

        Raises:
            Failure: missing, device, mismatch.
        """
        if self.request.get("gpu"):  # before anything can have asked CUDA
            os.environ[VISIBLE] = self.request["gpu"]
        self.trt = load_tensorrt()
        self.seen.update(tensorrt_identity(self.trt))
        self.cuda = load_cuda()
        self.laps.lap("import")
        self.device = self._device()
        self.seen.update(device_identity(self.cuda, self.device))
        found = differences(self.request.get("expect") or {}, self.seen)
        if found:
            text = "this is not what was planned for: " + "; ".join(found)
            raise Failure("mismatch", text, PROBE_AGAIN, differences=found)
        if self.request.get("op") in ALONE:
            self.neighbours = Neighbours(Nvml(self.seen["device"]["uuid"]))
        self.cuda.call("cudaSetDevice", self.device)
        self.logger = make_logger(self.trt, self.log)
        self.laps.lap("open")

    def _device(self) -> int:
        """Return the device's number: with ``gpu``, a UUID, that one is all that is to be seen.

        Raises:
            Failure: device, mismatch.
        """
        gpu = self.request.get("gpu")
        try:
            count = device_count(self.cuda)
        except Failure as exc:
            if not gpu:
                raise
            text = f"the GPU {gpu} that this was planned for is not there: {exc.message}"
            raise Failure("mismatch", text, PROBE_AGAIN) from exc
        device = 0 if gpu else int(self.request.get("device", 0))
        if device >= count:
            text = f"device {device} was asked for; {count} are visible"
            hint = f"set target.device below {count}, or show it more ({VISIBLE})"
            raise Failure("device", text, hint, where="target.device")
        return device

    def prepare(self) -> None:
        """Register TensorRT's own plugins and load the user's libraries.

        Raises:
            Failure: refused, naming the library.
        """
        self.trt.init_libnvinfer_plugins(self.logger, "")
        for plugin in self.request.get("plugins") or ():
            self.load_plugin(self.path(plugin))
        self.laps.lap("plugins")

    def load_plugin(self, path: str) -> None:
        """Load a library of plugins, of either kind.

        Static ones (trtexec's ``--staticPlugins``) register their plugins while they are loaded;
        dynamic ones (``--dynamicPlugins``) wait to be asked by the registry, which refuses plugins
        that are registered already, without a word (seen on 8.6.0). So a library that does both is
        loaded only.

        Raises:
            Failure: refused.
        """
        before, registered = self.log.mark(), self._creators()
        name = f"plugin library '{os.path.basename(path)}'"
        hint = "build it for this TensorRT and CUDA; target.plugins lists the libraries"
        if not os.path.isfile(path):
            raise Failure("refused", f"{name} is not there: {path}", hint, where="target.plugins")
        try:
            library = ctypes.CDLL(path)
        except OSError as exc:
            text = f"{name} cannot be loaded: {str(exc).replace(path + ': ', '')}"
            raise Failure("refused", text, hint, where="target.plugins") from exc
        if self._creators() > registered:
            return
        # Names that the registry looks for: getPluginCreators in 8.6, getCreators since 10.0.
        if not any(hasattr(library, name) for name in ("getPluginCreators", "getCreators")):
            self.log.add("warning", f"{name} brings no TensorRT plugins")
            return
        registry = self.trt.get_plugin_registry()
        taken, errors = registry.load_library(path) is not None, self.log.errors(before)
        if not taken or errors:
            reason = quoted(errors) if errors else "some of its plugins are registered already"
            text = f"TensorRT does not take {name}: {reason}"
            raise Failure("refused", text, hint, where="target.plugins")

    def _creators(self) -> int:
        """Return how many plugins are registered."""
        registry = self.trt.get_plugin_registry()
        lists = [getattr(registry, name, None) for name in CREATOR_LISTS]
        return next((len(found) for found in lists if found is not None), 0)

    def path(self, name: str) -> str:
        """Return a path of the request: absolute, or relative to its directory."""
        return os.path.join(self.directory, name)

    def named(self, name: str) -> Any:
        """Return what *name* means in this TensorRT, or None."""
        return lookup(self.trt, name)

    def failure(self, since: int, what: str, otherwise: str, hint: str = "") -> Failure:
        """Return the failure that the log speaks of since a mark: *what*, then TensorRT's words."""
        errors = self.log.errors(since)
        kind = classify(errors, otherwise)
        return Failure(kind, f"{what}: {quoted(errors)}", hint)


# == Callbacks =================================================================================
# TensorRT calls these, also from its own threads. An exception must never leave them: it would pass
# through C++ that does not expect one.


def make_logger(trt: Any, log: Log) -> Any:
    """Return an ``ILogger`` that hands messages to *log*; it must outlive what is made with it."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            with contextlib.suppress(Exception):
                log.add(severity.name.lower(), msg)

    return Logger()


class Phases:
    """How far a build is, from its nested phases; thread-safe.

    A phase of n steps that has done k, with a child phase that is done by a share s, is done by
    (k + s) / n. The share of the roots that are still open counts, the deepest text is shown.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._phases: dict[str, tuple[str | None, int, int]] = {}
        self._done = 0.0

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """Open a phase."""
        with self._lock:
            self._phases[name] = (parent, max(steps, 1), 0)

    def step(self, name: str) -> None:
        """Count one step."""
        with self._lock:
            if name in self._phases:
                parent, steps, done = self._phases[name]
                self._phases[name] = (parent, steps, min(done + 1, steps))

    def finish(self, name: str) -> None:
        """Close a phase."""
        with self._lock:
            self._phases.pop(name, None)

    def share(self) -> float:
        """Return the share that is done; it never falls."""
        with self._lock:
            roots = [name for name, phase in self._phases.items() if phase[0] not in self._phases]
            shares = [self._share(name) for name in roots]
            self._done = max(self._done, max(shares, default=0.0))
            return self._done

    def _share(self, name: str) -> float:
        _, steps, done = self._phases[name]
        inner = [self._share(other) for other, phase in self._phases.items() if phase[0] == name]
        return min(1.0, (done + max(inner, default=0.0)) / steps)


def make_monitor(trt: Any, tell: Callable[[float, str], None]) -> Any:
    """Return an ``IProgressMonitor`` (TensorRT >= 10) that calls *tell* now and then."""
    phases = Phases()

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.told = 0.0

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            with contextlib.suppress(Exception):
                phases.start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:  # noqa: ARG002
            with contextlib.suppress(Exception):
                phases.step(phase_name)
                if time.monotonic() - self.told > 0.2:
                    self.told = time.monotonic()
                    tell(phases.share(), phase_name)
            return True

        def phase_finish(self, phase_name: str) -> None:
            with contextlib.suppress(Exception):
                phases.finish(phase_name)

    return Monitor()


def make_profiler(trt: Any, times: dict[str, list[float]]) -> Any:
    """Return an ``IProfiler`` that appends each layer's milliseconds to *times*."""

    class Profiler(trt.IProfiler):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            times.setdefault(layer_name, []).append(ms)

    return Profiler()


def make_allocator(trt: Any, buffer: Buffer) -> Any:
    """Return an ``IOutputAllocator`` for one output whose size only the run tells.

    Its ``shape`` is the shape of the last run, its ``problem`` the failure that kept it from
    allocating.
    """

    class Allocator(trt.IOutputAllocator):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IOutputAllocator.__init__(self)
            self.shape: Shape | None = None
            self.problem: Failure | None = None

        def reallocate_output(self, *call: Any) -> int:
            _, _, size, _ = call  # name, present memory, bytes, alignment
            try:
                return buffer.reserve(size)
            except Failure as exc:
                self.problem = exc
                return 0

        def reallocate_output_async(self, *call: Any) -> int:
            return self.reallocate_output(*call[:4])  # the fifth is the stream

        def notify_shape(self, tensor_name: str, shape: Any) -> None:  # noqa: ARG002
            with contextlib.suppress(Exception):
                self.shape = tuple(shape)

    return Allocator()


class CalibrationFeed:
    """The device-side batches of a calibration: one at a time, in buffers that are reused."""

    def __init__(self, session: Session, inputs: Mapping[str, str], settings: Json) -> None:
        """Take the types of the network's *inputs* and the request's ``calibration``."""
        self._session = session
        self._inputs = inputs
        self._files = [session.path(name) for name in settings["batches"]]
        self._cache_read = settings.get("cache_read")
        self._cache_write = settings.get("cache_write")
        self._buffers = {name: Buffer(session.cuda, host=False) for name in inputs}
        self._next = 0
        self.shapes = {name: array.shape for name, array in self._load(0).items()}
        self.used = 0
        self.problem: Failure | None = None

    def _load(self, index: int) -> dict[str, Array]:
        arrays = read_npz(self._files[index])
        return {
            name: as_type(name, _given(arrays, name, self._files[index]), dtype)
            for name, dtype in self._inputs.items()
        }

    def addresses(self, names: Sequence[str]) -> list[int] | None:
        """Return the device addresses of the next batch in the order of *names*, None at the end.

        A batch of another shape than the first (a shorter last one) is left out: TensorRT
        calibrates at one shape.
        """
        while self._next < len(self._files):
            batch = self._load(self._next)
            self._next += 1
            if {name: array.shape for name, array in batch.items()} != self.shapes:
                self._session.log.add(
                    "warning", f"calibration batch {self._next} has another shape: left out"
                )
                continue
            cuda = self._session.cuda
            for name, array in batch.items():
                address = self._buffers[name].reserve(array.nbytes)
                to_device = cuda.api.cudaMemcpyKind.cudaMemcpyHostToDevice
                cuda.call("cudaMemcpy", address, array.ctypes.data, array.nbytes, to_device)
            self.used += 1
            return [self._buffers[name].address for name in names]
        return None

    def read_cache(self) -> bytes | None:
        """Return the calibration table to start from, None where there is none yet."""
        if self._cache_read is None:
            return None
        path = self._session.path(self._cache_read)
        if not os.path.exists(path):
            return None
        with open(path, "rb") as file:
            return file.read() or None

    def write_cache(self, table: Any) -> None:
        """Keep the calibration table."""
        if self._cache_write is not None:
            write_atomically(self._session.path(self._cache_write), [bytes(table)])

    def free(self) -> None:
        """Give the device memory back."""
        for buffer in self._buffers.values():
            buffer.free()


def make_calibrator(trt: Any, base_name: str, feed: CalibrationFeed) -> Any:
    """Return an int8 calibrator (TensorRT <= 10) of class *base_name* that draws from *feed*."""
    base = getattr(trt, base_name)

    def guarded(action: Callable[[], Any]) -> Any:
        try:
            return action()
        except Failure as exc:
            feed.problem = exc
        except Exception as exc:  # noqa: BLE001  (must not pass through C++)
            feed.problem = Failure("bug", f"calibration: {type(exc).__name__}: {exc}")
        return None

    class Calibrator(base):  # type: ignore[misc, valid-type]
        def __init__(self) -> None:
            base.__init__(self)

        def get_batch_size(self) -> int:
            return 1  # read for implicit batches only; with explicit ones shapes say it

        def get_batch(self, names: Sequence[str]) -> Any:
            return guarded(lambda: feed.addresses(names))

        def read_calibration_cache(self) -> Any:
            return guarded(feed.read_cache)

        def write_calibration_cache(self, cache: Any) -> None:
            guarded(lambda: feed.write_cache(cache))

    return Calibrator()


# == Arrays ====================================================================================

#: TensorRT's types to what NumPy holds them in; bfloat16 travels as 16 bits, shows as float32.
NUMPY_TYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "bfloat16",
    "INT8": "int8",
    "UINT8": "uint8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
}


def dtype_of(tensor: str, data_type: Any) -> str:
    """Return the NumPy name of a TensorRT type.

    Raises:
        Failure: refused, for a type that has none (fp8, int4, fp4).
    """
    name = str(data_type.name)
    if name not in NUMPY_TYPES:
        raise Failure(
            "refused",
            f"'{tensor}' is {name.lower()}, which NumPy does not have",
            "keep inputs and outputs of the model in fp32 or fp16",
        )
    return NUMPY_TYPES[name]


def stored_type(dtype: str) -> str:
    """Return the NumPy type that holds *dtype* in memory."""
    return "uint16" if dtype == "bfloat16" else dtype


def read_npz(path: str) -> dict[str, Array]:
    """Return the arrays of an ``.npz`` file.

    Raises:
        Failure: refused, when it is none.
    """
    np = load_numpy()
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, EOFError, ValueError, zipfile.BadZipFile) as exc:
        raise Failure("refused", f"{path} holds no arrays: {exc}") from exc


def write_npz(path: str, arrays: Mapping[str, Array]) -> None:
    """Write *arrays* as an uncompressed ``.npz`` file that is whole or absent.

    ``numpy.savez`` cannot take every name, and its ``allow_pickle`` is newer than some toolchains.
    """
    np = load_numpy()
    temporary = f"{path}.{os.getpid()}.part"
    with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.asanyarray(array), allow_pickle=False)
    os.replace(temporary, path)


def _given(arrays: Mapping[str, Array], name: str, where: str) -> Array:
    if name not in arrays:
        have = ", ".join(arrays) or "nothing"
        raise Failure("refused", f"input '{name}' has no data: {where} holds {have}")
    return arrays[name]


def as_type(name: str, array: Array, dtype: str) -> Array:
    """Return *array* contiguous and in the engine's *dtype*; bfloat16 as its bits (uint16).

    Integers are converted when every value fits (TensorRT 8.6 has int32 where ONNX has int64);
    float64 becomes float32, as the ONNX parser makes of the model; float32 becomes bfloat16 or
    float16 where the engine was built so, to nearest even, when every value fits. Nothing else is
    converted.

    Raises:
        Failure: refused.
    """
    import numpy as np

    have = array.dtype.name
    if have == dtype:
        return np.asarray(array, order="C")
    if have in ("float32", "float64") and dtype == "bfloat16":
        return to_bfloat16(array.astype(np.float32))
    if have == "float64" and dtype == "float32":
        return np.asarray(array, dtype=np.float32, order="C")
    if have in ("float32", "float64") and dtype == "float16":
        return to_float16(name, array)
    if array.dtype.kind in "iu" and dtype in ("int8", "uint8", "int32", "int64"):
        limits = np.iinfo(dtype)
        if array.size and (int(array.min()) < limits.min or int(array.max()) > limits.max):
            raise Failure(
                "refused",
                f"input '{name}' is {dtype} in the engine; values from {array.min()} to "
                f"{array.max()} do not fit",
                "TensorRT 8.6 has no int64: use smaller values, or TensorRT >= 10",
            )
        return np.asarray(array, dtype=dtype, order="C")
    raise Failure("refused", f"input '{name}' is {dtype} in the engine, got {have}")


def to_float16(name: str, array: Array) -> Array:
    """Return floating-point values as float16, rounded to nearest even.

    Raises:
        Failure: refused, when a finite value would become infinite.
    """
    import numpy as np

    with np.errstate(over="ignore"):
        found = np.asarray(array, dtype=np.float16, order="C")
    if np.any(np.isinf(found) & np.isfinite(array)):
        raise Failure(
            "refused",
            f"input '{name}' is float16 in the engine; values from {array.min()} to {array.max()} "
            "do not fit",
            "leave its type out of target.input_formats",
        )
    return found


def to_bfloat16(array: Array) -> Array:
    """Return float32 values as bfloat16 bits (uint16), rounded to nearest even; NaN stays NaN."""
    import numpy as np

    bits = np.asarray(array, dtype=np.float32, order="C").view(np.uint32)
    rounded = (bits + (((bits >> 16) & 1) + np.uint32(0x7FFF))) >> 16
    quiet = (bits >> 16) | np.uint32(0x40)
    return np.where(np.isnan(array), quiet, rounded).astype(np.uint16)


def from_bfloat16(bits: Array) -> Array:
    """Return bfloat16 bits (uint16) as float32, exactly."""
    import numpy as np

    return np.asarray(bits.astype(np.uint32) << 16).view(np.float32)


class Layout(NamedTuple):
    """A memory layout: *spatial* axes follow the channels' axis, which is cut into *width* parts.

    The channels, padded to a multiple of *width*, lie last as a whole, or in groups whose *width*
    elements lie last (TensorRT's documentation of ``TensorFormat``).
    """

    spatial: int
    width: int
    channels_last: bool


#: Layouts besides the linear one; a DLA's have padded rows and are for its own runtime.
LAYOUTS = {
    "CHW2": Layout(2, 2, False),
    "CHW4": Layout(2, 4, False),
    "CHW16": Layout(2, 16, False),
    "CHW32": Layout(2, 32, False),
    "CDHW32": Layout(3, 32, False),
    "HWC": Layout(2, 1, True),
    "HWC8": Layout(2, 8, True),
    "HWC16": Layout(2, 16, True),
    "DHWC": Layout(3, 1, True),
    "DHWC8": Layout(3, 8, True),
}


def stored_shape(shape: Shape, layout: str) -> Shape:
    """Return the shape in which a tensor of *shape* lies in memory."""
    if layout == "LINEAR":
        return shape
    spatial, width, channels_last = LAYOUTS[layout]
    axis = len(shape) - spatial - 1
    groups = -(-shape[axis] // width)
    before, after = shape[:axis], shape[axis + 1 :]
    if channels_last:
        return (*before, *after, groups * width)
    return (*before, groups, *after, width)


def pack_layout(array: Array, layout: str) -> Array:
    """Return *array* as it lies in memory; the padding of the channels is zero."""
    if layout == "LINEAR":
        return array
    import numpy as np

    spatial, width, channels_last = LAYOUTS[layout]
    axis = array.ndim - spatial - 1
    channels = array.shape[axis]
    groups = -(-channels // width)
    shape = [*array.shape[:axis], groups * width, *array.shape[axis + 1 :]]
    padded = np.zeros(shape, array.dtype)
    padded[(slice(None),) * axis + (slice(channels),)] = array
    if channels_last:
        return np.ascontiguousarray(np.moveaxis(padded, axis, -1))
    split = padded.reshape(*shape[:axis], groups, width, *shape[axis + 1 :])
    return np.ascontiguousarray(np.moveaxis(split, axis + 1, -1))


def unpack_layout(stored: Array, shape: Shape, layout: str) -> Array:
    """Return what lies in memory as an array of *shape*; the reverse of :func:`pack_layout`."""
    if layout == "LINEAR":
        return stored
    import numpy as np

    spatial, _, channels_last = LAYOUTS[layout]
    axis = len(shape) - spatial - 1
    array = np.moveaxis(stored, -1, axis if channels_last else axis + 1)
    whole = array.reshape(*shape[:axis], -1, *shape[axis + 1 :])
    return np.ascontiguousarray(whole[(slice(None),) * axis + (slice(shape[axis]),)])


# == Building ==================================================================================


class NetworkInput(NamedTuple):
    """An input as the parsed network has it: free sizes are -1; a shape tensor's data are sizes."""

    name: str
    shape: Shape
    holds_shape: bool


def profile_problems(
    inputs: Sequence[NetworkInput], profile: Mapping[str, Mapping[str, Sequence[int]]]
) -> list[str]:
    """Return what is wrong with an optimization profile, one sentence each; none when it is right.

    TensorRT checks little when a profile is set and says the rest in its log only (8.6): ranks must
    agree, 0 <= min <= opt <= max, fixed sizes must be given as they are, every input with free
    sizes and every shape tensor needs an entry.
    """
    names = [item.name for item in inputs]
    have = ", ".join(names) or "no inputs"
    problems = [
        f"the network has no input '{name}'; it has {have}" for name in profile if name not in names
    ]
    for item in inputs:
        if item.name in profile:
            problems += _bounds_problems(item, profile[item.name])
        elif item.holds_shape:
            problems.append(
                f"input '{item.name}' is a shape tensor: its values decide other tensors' sizes, "
                "and no range of them is given"
            )
        elif -1 in item.shape:
            problems.append(
                f"input '{item.name}', axis {item.shape.index(-1)}: dynamic in the network "
                f"{list(item.shape)}, and no range is given"
            )
    return problems


def _bounds_problems(item: NetworkInput, bounds: Mapping[str, Sequence[int]]) -> list[str]:
    low, best, high = (list(bounds[point]) for point in ("min", "opt", "max"))
    shown = f"input '{item.name}': min {low}, opt {best}, max {high}"
    if not len(low) == len(best) == len(high):
        return [f"{shown} differ in rank"]
    if not item.holds_shape and len(low) != len(item.shape):
        return [f"{shown} have rank {len(low)}, the input {list(item.shape)} has {len(item.shape)}"]
    problems = []
    for axis, sizes in enumerate(_triples(low, best, high)):
        place = f"input '{item.name}', {'value' if item.holds_shape else 'axis'} {axis}"
        given = "min {}, opt {}, max {}".format(*sizes)
        fixed = -1 if item.holds_shape else item.shape[axis]
        if not 0 <= sizes[0] <= sizes[1] <= sizes[2]:
            problems.append(f"{place}: {given} are not 0 <= min <= opt <= max")
        elif fixed >= 0 and set(sizes) != {fixed}:
            problems.append(f"{place}: {given}, and the network fixes it to {fixed}")
    return problems


def _triples(*lists: Sequence[int]) -> Iterator[Any]:
    return zip(*lists)  # noqa: B905  (strict= is newer than Python 3.8; lengths are checked)


def parser_message(errors: Sequence[Mapping[str, Any]]) -> str:
    """Return the message for the parser's *errors*, one line each (see :func:`parser_errors`)."""
    lines = []
    for entry in errors:
        node = entry.get("node_name") or ""
        operator = entry.get("operator") or ""
        place = f"node '{node}'" if node else f"node {entry['node']}" if entry["node"] >= 0 else ""
        place = f"{place} ({operator})" if place and operator else place or operator
        lines.append(f"{place}: {entry['code']}: {entry['description']}".lstrip(": "))
    return "TensorRT's ONNX parser refuses the model:\n" + "\n".join(lines)


def parser_errors(parser: Any, nodes: Sequence[OnnxNode]) -> list[Json]:
    """Return every error of an ``OnnxParser`` as JSON.

    Since 10.0 TensorRT names node and operator itself; 8.6 gives the index, looked up in *nodes*.
    """
    found = []
    for index in range(parser.num_errors):
        error = parser.get_error(index)
        node = int(error.node())
        known = nodes[node] if 0 <= node < len(nodes) else OnnxNode("", "")
        given = (
            OnnxNode(error.node_name(), error.node_operator())
            if hasattr(error, "node_name")
            else known
        )
        found.append(
            {
                # `name` is a method on 8.6 (seen): the member's text is "ErrorCode.NAME" on all.
                "code": str(error.code()).rpartition(".")[2],
                "description": error.desc(),
                "node": node,
                "node_name": given.name or known.name,
                "operator": given.op_type or known.op_type,
                "function": error.func(),
                "file": error.file(),
                "line": int(error.line()),
            }
        )
    return found


def network_flags(trt: Any, mode: str) -> int:
    """Return the bits for ``create_network``.

    The numbers of these flags change between majors, so they are made from names: explicit batch
    must be asked for in 8.6 and is gone in 11; typing must be asked for in 10 and is the only way
    in 11.

    Raises:
        Failure: refused, for a mode that this version lacks.
    """
    version = str(trt.__version__)
    if mode not in ("weak", "strong"):
        raise Failure("bug", f"precision mode '{mode}' is neither weak nor strong")
    names = ["EXPLICIT_BATCH"]
    if mode == "strong":
        if lookup(trt, "NetworkDefinitionCreationFlag.STRONGLY_TYPED") is None:
            name = "NetworkDefinitionCreationFlag.STRONGLY_TYPED"
            raise Failure("refused", f"a typed network is not possible: {lacking(name, version)}")
        names.append("STRONGLY_TYPED")
    enum = trt.NetworkDefinitionCreationFlag
    return sum(1 << int(getattr(enum, name)) for name in names if hasattr(enum, name))


def layers_to_keep(
    names: Sequence[str], op_types: Sequence[str], nodes: Sequence[OnnxNode]
) -> set[str]:
    """Return the node names to hold in fp32.

    Raises:
        Failure: refused, when a name or an operator is in no node of the model.
    """
    known = {node.name for node in nodes}
    operators = {node.op_type for node in nodes}
    wrong = [
        f"no node '{name}'. {nearest(name, known)}".rstrip() for name in names if name not in known
    ] + [f"no operator {name}" for name in op_types if name not in operators]
    if wrong:
        raise Failure("refused", "to be kept in fp32, but the model has " + "; ".join(wrong))
    return set(names) | {node.name for node in nodes if node.op_type in op_types}


ONNX_LAYER = re.compile(r"\[ONNX Layer: (.*?)\]")


def made_from(layer_name: str, layer_metadata: str) -> set[str]:
    """Return the ONNX nodes that a network layer comes from: its metadata's, or its own name."""
    return set(ONNX_LAYER.findall(layer_metadata)) or {layer_name}


def hold_in_fp32(session: Session, network: Any, kept: set[str]) -> int:
    """Set precision and output types of the layers made from *kept* nodes; return their number."""
    trt = session.trt
    held = 0
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.type == trt.LayerType.CONSTANT or not kept & made_from(layer.name, layer.metadata):
            continue
        outputs = float_outputs(trt, layer)
        if not outputs:
            continue
        layer.precision = trt.DataType.FLOAT
        for at in outputs:
            layer.set_output_type(at, trt.DataType.FLOAT)
        held += 1
    return held


def parse_onnx(session: Session, parser: Any, path: str) -> list[str]:
    """Parse *path* into the parser's network and return the parser's warnings.

    Raises:
        Failure: refused, with ``errors``.
    """
    before = session.log.mark()
    warnings = session.log.warnings()
    if not os.path.exists(path):
        raise Failure("bug", f"there is no ONNX file {path}")
    if not parser.parse_from_file(path):
        errors = parser_errors(parser, read_onnx(path).nodes)
        if not errors:
            raise session.failure(before, "TensorRT's ONNX parser refuses the model", "refused")
        hint = "use operators and an opset that this TensorRT supports, or a plugin"
        raise Failure("refused", parser_message(errors), hint, errors=errors)
    return session.log.warnings()[len(warnings) :]


class Building:
    """A builder with network, parser and configuration, which must live until the plan exists."""

    def __init__(self, session: Session, mode: str) -> None:
        trt, before = session.trt, session.log.mark()
        self.session = session
        try:
            self.builder = trt.Builder(session.logger)
        except TypeError as exc:  # pybind11: "factory function returned nullptr"
            raise session.failure(before, "TensorRT cannot create a builder", "device") from exc
        builder = self.builder
        self.network = builder.create_network(network_flags(trt, mode))
        self.parser = trt.OnnxParser(self.network, session.logger)
        self.config = builder.create_builder_config()
        self.keep: list[Any] = []

    def inputs(self) -> list[NetworkInput]:
        """Return the network's inputs."""
        network = self.network
        tensors = [network.get_input(at) for at in range(network.num_inputs)]
        return [
            NetworkInput(tensor.name, tuple(tensor.shape), bool(tensor.is_shape_tensor))
            for tensor in tensors
        ]

    def ports(self, outputs: bool) -> list[Json]:
        """Return name, dtype, shape (-1: free) and location of the network's inputs or outputs."""
        network = self.network
        count = network.num_outputs if outputs else network.num_inputs
        get = network.get_output if outputs else network.get_input
        tensors = [get(at) for at in range(count)]
        return [
            {
                "name": tensor.name,
                "dtype": NUMPY_TYPES.get(tensor.dtype.name, tensor.dtype.name.lower()),
                "shape": _sizes_of(tensor.shape),
                "location": "host" if tensor.is_shape_tensor else "device",
            }
            for tensor in tensors
        ]

    def add_profiles(self, profiles: Sequence[Json]) -> None:
        """Add optimization profiles.

        Raises:
            Failure: refused.
        """
        inputs = self.inputs()
        problems = [
            f"profile {index}: {problem}"
            for index, bounds in enumerate(profiles or [{}])
            for problem in profile_problems(inputs, bounds)
        ]
        if problems:
            raise Failure("refused", "\n".join(problems), "see model.inputs and model.dims")
        for index, bounds in enumerate(profiles):
            before = self.session.log.mark()
            profile = self._profile(inputs, bounds)
            if self.config.add_optimization_profile(profile) < 0:
                raise self.session.failure(before, f"profile {index}", "refused")

    def _profile(self, inputs: Sequence[NetworkInput], bounds: Json) -> Any:
        profile = self.builder.create_optimization_profile()
        for item in inputs:
            if item.name not in bounds:
                continue
            low, best, high = (tuple(bounds[item.name][point]) for point in ("min", "opt", "max"))
            try:
                if item.holds_shape:
                    profile.set_shape_input(item.name, low, best, high)
                else:
                    profile.set_shape(item.name, low, best, high)
            except (RuntimeError, ValueError) as exc:
                raise Failure("refused", f"profile of '{item.name}': {exc}") from exc
        self.keep.append(profile)
        return profile

    def tell_progress(self) -> None:
        """Report how far the build is, where TensorRT tells it (10.0 and later)."""
        session, config = self.session, self.config
        if session.named("IProgressMonitor") is None:
            return
        tell = session.channel.progress
        monitor = make_monitor(session.trt, lambda done, text: tell(0.02 + 0.96 * done, text))
        self.keep.append(monitor)
        config.progress_monitor = monitor

    def calibrate(self, settings: Json) -> CalibrationFeed:
        """Attach an int8 calibrator that draws from the request's batches.

        It has a profile of its own, at the batches' shapes, so none of the engine's is chosen for
        it (trtexec's ``--calibProfile`` chooses because its batches are made up). It is fed before
        types of inputs are changed: calibration runs the network as the model declares it.

        Raises:
            Failure: refused, when this TensorRT has no such calibrator or the data do not fit.
        """
        session, network, config = self.session, self.network, self.config
        name = CALIBRATORS.get(settings["algorithm"])
        if name is None or session.named(name) is None:
            version = str(session.trt.__version__)
            raise Failure("refused", f"calibration: {lacking(str(name), version)}")
        if not settings["batches"]:
            raise Failure("refused", "calibration was given no batches", "see the data group")
        tensors = [network.get_input(at) for at in range(network.num_inputs)]
        types = {tensor.name: dtype_of(tensor.name, tensor.dtype) for tensor in tensors}
        feed = CalibrationFeed(session, types, settings)
        shapes = {
            key: dict.fromkeys(("min", "opt", "max"), shape) for key, shape in feed.shapes.items()
        }
        plain = [item for item in self.inputs() if not item.holds_shape]
        config.set_calibration_profile(self._profile(plain, shapes))
        calibrator = make_calibrator(session.trt, name, feed)
        config.int8_calibrator = calibrator
        self.keep += [feed, calibrator]
        return feed

    def read_timing_cache(self, path: str | None) -> Json:
        """Attach the timing cache in *path*, or an empty one; return whether it was used.

        Made by another TensorRT or for another device it is not used, never with
        ``ignore_mismatch``.
        """
        config, stored = self.config, b""
        if path and os.path.exists(path):
            with open(path, "rb") as file:
                stored = file.read()
        used = False
        if stored:
            cache = config.create_timing_cache(stored)
            used = cache is not None and bool(config.set_timing_cache(cache, False))
            self.keep.append(cache)
        if not used:
            cache = config.create_timing_cache(b"")
            config.set_timing_cache(cache, False)
            self.keep.append(cache)
        return {"used": used, "bytes_before": len(stored), "hits": None}

    def write_timing_cache(self, path: str) -> int:
        """Write the timing cache, merged with what another build left there meanwhile.

        Returns:
            Its size in bytes; 0 when TensorRT has none to give.
        """
        config = self.config
        cache = config.get_timing_cache()
        if cache is None:
            return 0
        with open(f"{path}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if os.path.exists(path):
                with open(path, "rb") as file:
                    stored = file.read()
                other = config.create_timing_cache(stored) if stored else None
                if other is not None:
                    cache.combine(other, False)
            memory = cache.serialize()
            return write_atomically(path, [memory])


def _sizes_of(shape: Any) -> list[int] | None:
    """Return a tensor's sizes as a list; None where TensorRT does not know even the rank."""
    try:
        return [int(size) for size in shape]
    except ValueError:
        return None


def build(session: Session) -> Json:
    """Build a plan from an ONNX file.

    Returns:
        ``seconds`` of each part of the whole operation: ``import`` (TensorRT, CUDA and NumPy),
        ``open`` (device and context), ``plugins``, ``check`` (options, ONNX nodes), ``create``
        (builder), ``parse`` (and all that is set), ``build`` (``build_serialized_network`` alone),
        ``serialize`` (plan and timing cache written); and ``outside``, all but ``build``.
    """
    request, log, laps = session.request, session.log, session.laps
    precision, options = request["precision"], request.get("options") or {}
    steps = checked(session.trt, [*precision_steps(precision), *option_steps(options)])
    path = session.path(request["onnx"])
    graph = read_onnx(path)
    kept = layers_to_keep(
        precision.get("keep_layers") or (), precision.get("keep_op_types") or (), graph.nodes
    )
    check_mode(session, precision, kept, steps)
    laps.lap("check")
    session.channel.progress(0.0, "create builder")
    work = Building(session, precision["mode"])
    laps.lap("create")
    apply_steps(work, [step for step in steps if step.verb == "parser_flag"])
    session.channel.progress(0.01, "parse")
    warnings = parse_onnx(session, work.parser, path)
    check_io_names(request.get("io_names"), work)
    apply_steps(work, [step for step in steps if step.verb != "parser_flag"])
    held = hold_in_fp32(session, work.network, kept)
    if options.get("refit") == "individual":
        mark_refittable(work.network, graph.initializers)
    work.add_profiles(request.get("profiles") or [])
    feed = work.calibrate(request["calibration"]) if request.get("calibration") else None
    set_network(work, steps, precision["mode"], kept)
    plugins_in_plan(work, options)
    caching = request.get("timing_cache")
    cached = work.read_timing_cache(_path_of(session, caching, "read")) if caching else None
    work.tell_progress()
    laps.lap("parse")
    session.channel.progress(0.02, "build")
    memory = run_builder(work, feed)
    laps.lap("build")
    session.channel.progress(0.98, "write")
    size = write_atomically(session.path(request["plan"]), [memory])
    if caching and cached is not None and caching.get("write"):
        cached["bytes"] = work.write_timing_cache(session.path(caching["write"]))
    laps.lap("serialize")
    return {
        "bytes": size,
        "seconds": laps.report(inside="build"),
        "inputs": work.ports(outputs=False),
        "outputs": work.ports(outputs=True),
        "layers": int(work.network.num_layers),
        "kept_layers": held,
        "calibration_batches": None if feed is None else feed.used,
        "parser_warnings": warnings[:40],
        "warnings": log.warnings()[-40:],
        "timing_cache": cached,
    }


def check_mode(
    session: Session, precision: Mapping[str, Any], kept: set[str], steps: Sequence[Step]
) -> None:
    """Check what is for weak typing only, before the builder costs seconds.

    Raises:
        Failure: refused, bug.
    """
    if precision["mode"] != "weak":
        if kept or precision.get("flags"):
            raise Failure("bug", "precision flags and kept layers are for weak mode only")
        typed = [step.option for step in steps if step.verb in ("precision", "output_type")]
        typed += [step.option for step in steps if step.option == "mix_with"]
        if typed:
            raise Failure(
                "refused",
                f"{typed[0]}: the network is strongly typed, so every type is the model's",
                "leave it out; precision.keep_nodes keeps operators in fp32",
            )
    network_flags(session.trt, precision["mode"])


def _path_of(session: Session, settings: Json, name: str) -> str | None:
    return session.path(settings[name]) if settings.get(name) else None


def run_builder(work: Building, feed: CalibrationFeed | None) -> Any:
    """Return the plan as ``IHostMemory``.

    Raises:
        Failure: memory, device, builder; or what a calibration batch failed with.
    """
    session = work.session
    before = session.log.mark()
    builder, network, config = work.builder, work.network, work.config
    memory = builder.build_serialized_network(network, config)
    if feed is not None:
        feed.free()
        if feed.problem is not None:
            raise feed.problem
    if memory is None:
        raise session.failure(before, "TensorRT built no engine", "builder")
    return memory


def check_io_names(wanted: Mapping[str, Sequence[str]] | None, work: Building) -> None:
    """Check that the parsed network has the *wanted* ``inputs`` and ``outputs``.

    Raises:
        Failure: refused.
    """
    for kind, names in (wanted or {}).items():
        have = [port["name"] for port in work.ports(outputs=kind == "outputs")]
        lost = [name for name in names if name not in have]
        if lost:
            raise Failure(
                "refused",
                f"TensorRT's network has no {kind} {', '.join(lost)}; it has {', '.join(have)}",
                "an input that nothing uses is dropped: remove it from the model",
            )


def mark_refittable(network: Any, names: Sequence[str]) -> None:
    """Mark the weights *names* (REFIT_INDIVIDUAL refits only what is marked).

    The ONNX parser names a network's weights after the initializers; what it folded is not there.

    Raises:
        Failure: refused, when none of them is in the network.
    """
    marked = [name for name in names if name and network.mark_weights_refittable(name)]
    if not marked:
        raise Failure("refused", "refit=individual: TensorRT's network has no named weights")


# == Layers and tensors ========================================================================


class NetworkLayer(NamedTuple):
    """The names of a network layer: its own, and the ONNX nodes it comes from."""

    name: str
    nodes: frozenset[str]


def network_layers(network: Any) -> list[NetworkLayer]:
    """Return the names of all layers, in the network's order."""
    found = []
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        found.append(NetworkLayer(layer.name, frozenset(made_from(layer.name, layer.metadata))))
    return found


def fits(keys: Iterable[str], names: Sequence[str]) -> list[str]:
    """Return those of *keys* that name a layer called *names*, the most exact first.

    A key is one of the names, in their order, or a pattern in which ``*`` stands for any text; of
    patterns the longest is the most exact.
    """
    exact = [name for name in names if name in keys and "*" not in name]
    patterns = sorted((key for key in keys if "*" in key), key=lambda key: (-len(key), key))
    regular = {key: ".*".join(map(re.escape, key.split("*"))) for key in patterns}
    return exact + [
        key for key in patterns if any(re.fullmatch(regular[key], name) for name in names)
    ]


def assign(option: str, keys: Sequence[str], layers: Sequence[NetworkLayer]) -> dict[int, str]:
    """Return which of *keys* each layer takes, by index; layers that none fits are left out.

    A layer is called by its own name, then by those of the ONNX nodes it comes from.

    Raises:
        Failure: refused, when a key fits no layer.
    """
    taken: dict[int, str] = {}
    fitting: set[str] = set()
    for index, (own, nodes) in enumerate(layers):
        found = fits(keys, [own, *sorted(nodes - {own})])
        fitting.update(found)
        if found:
            taken[index] = found[0]
    refuse_unknown(
        option,
        "layer",
        [key for key in keys if key not in fitting],
        {name for own, nodes in layers for name in (own, *nodes)},
    )
    return taken


def refuse_unknown(option: str, kind: str, names: Sequence[str], known: Iterable[str]) -> None:
    """Refuse *names* that the network does not have, each with the nearest that it has.

    Raises:
        Failure: refused, when there are any.
    """
    have = sorted(known)
    lines = [
        f"{option}: TensorRT's network has no {kind} '{name}'. {nearest(name, have)}".rstrip()
        for name in names
    ]
    if lines:
        shown = ", ".join(have[:8]) + (", …" if len(have) > 8 else "")
        hint = f"it has {len(have)}: {shown}"
        raise Failure("refused", "\n".join(lines), hint, where=f"target.{option}")


def typed_outputs(trt: Any, layer: Any, key: str) -> list[int]:
    """Return the outputs that can be given a type: none of a constant that is not named itself."""
    if layer.type == trt.LayerType.CONSTANT and key != layer.name:
        return []
    return float_outputs(trt, layer)


def float_outputs(trt: Any, layer: Any) -> list[int]:
    """Return the indices of a layer's outputs that are floating-point data, not shapes."""
    floats = (trt.DataType.FLOAT, trt.DataType.HALF)
    found = []
    for at in range(layer.num_outputs):
        tensor = layer.get_output(at)
        if tensor.dtype in floats and not tensor.is_shape_tensor:
            found.append(at)
    return found


def set_network(work: Building, steps: Sequence[Step], mode: str, kept: set[str]) -> None:
    """Set *steps* that are about layers and tensors of the parsed network.

    Raises:
        Failure: refused.
    """
    entries: dict[str, dict[str, Any]] = {verb: {} for verb in NETWORK_NEEDS}
    for step in steps:
        if step.verb in NETWORK_NEEDS:
            entries[step.verb][step.name] = step.value
    before = work.session.log.mark()
    if entries["precision"]:
        set_layer_precisions(work, entries["precision"], kept)
    if entries["output_type"]:
        set_output_types(work, entries["output_type"])
    if entries["device"]:
        set_device_types(work, entries["device"])
    for kind in ("input", "output"):
        if entries[kind]:
            set_formats(work, kind, entries[kind], mode)
    if entries["debug"]:
        mark_debug(work, entries["debug"])
    if entries["unfused"]:
        mark_unfused(work)
    if entries["decompose"]:
        decompose(work, entries["decompose"])
    if work.session.log.errors(before):
        raise work.session.failure(before, "TensorRT does not take the options", "refused")


def set_layer_precisions(work: Building, wanted: Mapping[str, str], kept: set[str]) -> None:
    """Set the type that layers compute in; patterns and nodes pass over layers without floats.

    Raises:
        Failure: refused.
    """
    trt, network, option = work.session.trt, work.network, "layer_precisions"
    layers = network_layers(network)
    idle = {key for key in wanted if "*" not in key}
    for index, key in assign(option, list(wanted), layers).items():
        layer, word = network.get_layer(index), wanted[key]
        if word != "fp32" and kept & layers[index].nodes:
            raise Failure(
                "refused",
                f"{option}: '{key}' is {word}, and precision.keep_nodes or keep_op_types keeps "
                f"layer '{layer.name}' in fp32",
                "take it out of one of the two",
            )
        if typed_outputs(trt, layer, key):
            layer.precision = getattr(trt.DataType, TYPE_WORDS[word])
            idle.discard(key)
    _refuse_idle(option, idle)


def set_output_types(work: Building, wanted: Mapping[str, Any]) -> None:
    """Set the types of layers' outputs; other names than its own pass over what is no float.

    Raises:
        Failure: refused.
    """
    trt, network, option = work.session.trt, work.network, "layer_output_types"
    idle = {key for key in wanted if "*" not in key}
    for index, key in assign(option, list(wanted), network_layers(network)).items():
        layer, words = network.get_layer(index), output_types(wanted[key])
        chosen = typed_outputs(trt, layer, key)
        if len(words) > 1 and chosen and len(words) != layer.num_outputs:
            raise Failure(
                "refused",
                f"{option}: '{key}' is given {len(words)} types; layer '{layer.name}' has "
                f"{layer.num_outputs} outputs",
            )
        if key == layer.name:
            chosen = list(range(layer.num_outputs))
        for at in chosen:
            word = words[at] if len(words) > 1 else words[0]
            layer.set_output_type(at, getattr(trt.DataType, TYPE_WORDS[word]))
            idle.discard(key)
    _refuse_idle(option, idle)


def _refuse_idle(option: str, keys: Iterable[str]) -> None:
    names = ", ".join(f"'{key}'" for key in sorted(keys))
    if names:
        raise Failure("refused", f"{option}: no layer of {names} computes floating-point numbers")


def set_device_types(work: Building, wanted: Mapping[str, str]) -> None:
    """Set the device of layers.

    Raises:
        Failure: refused, for layers named for a DLA that cannot run them, without a way back.
    """
    trt, network, config = work.session.trt, work.network, work.config
    fallback = config.get_flag(trt.BuilderFlag.GPU_FALLBACK)
    unable = []
    option = "layer_device_types"
    for index, key in assign(option, list(wanted), network_layers(network)).items():
        layer = network.get_layer(index)
        config.set_device_type(layer, getattr(trt.DeviceType, wanted[key]))
        constant = layer.type == trt.LayerType.CONSTANT  # its weights go where they are used
        if wanted[key] == "DLA" and not (fallback or constant or config.can_run_on_DLA(layer)):
            unable.append(f"'{layer.name}'")
    if unable:
        raise Failure(
            "refused",
            f"{option}: the DLA cannot run {', '.join(unable[:8])}",
            "name the GPU for them, or set target.gpu_fallback=true",
        )


def set_formats(work: Building, kind: str, wanted: Mapping[str, str], mode: str) -> None:
    """Set the type and the allowed memory layouts of inputs or outputs (*kind*).

    Raises:
        Failure: refused, for unknown names, and for a type of a strongly typed network that is not
        the model's.
    """
    trt, network, option = work.session.trt, work.network, f"{kind}_formats"
    count = network.num_inputs if kind == "input" else network.num_outputs
    get = network.get_input if kind == "input" else network.get_output
    tensors = {tensor.name: tensor for tensor in (get(at) for at in range(count))}
    refuse_unknown(option, kind, [name for name in wanted if name not in tensors], tensors)
    for name, text in wanted.items():
        tensor = tensors[name]
        type_name, layouts = io_format(text)
        if type_name and tensor.dtype.name != type_name:
            if mode != "weak":
                raise Failure(
                    "refused",
                    f"{option}: '{name}' is {tensor.dtype.name} in this strongly typed network, "
                    f"not {type_name}: types are the model's",
                    "name the layout alone",
                )
            tensor.dtype = getattr(trt.DataType, type_name)
        bits = [1 << int(getattr(trt.TensorFormat, layout)) for layout in layouts]
        tensor.allowed_formats = sum(set(bits))


def mark_debug(work: Building, names: Iterable[str]) -> None:
    """Mark tensors that can be read while the engine runs.

    Raises:
        Failure: refused.
    """
    network, before = work.network, work.session.log.mark()
    tensors = {}
    for at in range(network.num_inputs):
        tensor = network.get_input(at)
        tensors[tensor.name] = tensor
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        for at in range(layer.num_outputs):
            tensor = layer.get_output(at)
            tensors[tensor.name] = tensor
    refuse_unknown("mark_debug", "tensor", [name for name in names if name not in tensors], tensors)
    for name in names:
        if not network.mark_debug(tensors[name]):
            raise work.session.failure(before, f"mark_debug: '{name}'", "refused")


def mark_unfused(work: Building) -> None:
    """Mark every tensor that is left after fusion.

    Raises:
        Failure: refused.
    """
    network, before = work.network, work.session.log.mark()
    if not network.mark_unfused_tensors_as_debug_tensors():
        raise work.session.failure(before, "mark_unfused_debug", "refused")


def decompose(work: Building, wanted: Mapping[str, Any]) -> None:
    """Let attentions be built from several kernels.

    Raises:
        Failure: refused, for names that no attention has.
    """
    trt, network = work.session.trt, work.network
    attentions = []
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.type == trt.LayerType.ATTENTION_INPUT:
            layer.__class__ = trt.IAttentionInputLayer  # get_layer gives the base class
            boundary = layer
            attentions.append(boundary.attention)
    names = [NetworkLayer(attention.name, frozenset()) for attention in attentions]
    for index in assign("decomposable_attentions", list(wanted), names):
        attention = attentions[index]
        attention.decomposable = True


def plugins_in_plan(work: Building, options: Mapping[str, Any]) -> None:
    """Choose the plugin libraries that a version-compatible plan carries.

    Those that the parser names are carried with the lean runtime only, and loaded either way, as
    trtexec does; that they are loaded already is no failure.

    Raises:
        Failure: bug, for a library that is not among the request's ``plugins``.
    """
    session, config, parser = work.session, work.config, work.parser
    given = {
        os.path.basename(path): session.path(path) for path in session.request.get("plugins") or ()
    }
    try:
        paths = [given[name] for name in options.get("plugins_to_serialize") or ()]
    except KeyError as exc:
        raise Failure("bug", f"plugins_to_serialize: {exc} is not among the plugins") from exc
    if options.get("version_compatible") and not options.get("ignore_parsed_plugin_libs"):
        parsed = list(parser.get_used_vc_plugin_libraries())
        registry = session.trt.get_plugin_registry()
        for path in parsed:
            registry.load_library(path)
        paths += [] if options.get("exclude_lean_runtime") else parsed
    if paths:
        config.plugins_to_serialize = list(dict.fromkeys(paths))


# == Loading a plan ============================================================================


def plan_version(head: bytes) -> str | None:
    """Return the TensorRT version in a plan's first 28 bytes, None when they are no plan's.

    Bytes 0-3 are ``ftrt``, 24-27 major, minor, patch and build (TensorRT's samples, since 8.6).
    """
    if len(head) < 28 or head[:4] != b"ftrt":
        return None
    return ".".join(str(number) for number in head[24:28])


class Loaded(NamedTuple):
    """A deserialised plan; the runtime must live as long as the engine."""

    runtime: Any
    engine: Any
    size: int


def load_plan(session: Session) -> Loaded:
    """Deserialise the request's ``plan``.

    A flipped byte loads without complaint and a plan is executable content, so its SHA-256 is held
    against the request's ``sha256`` first, where that is given. ``host_code: true`` allows the code
    that version-compatible plans carry.

    Raises:
        Failure: mismatch, refused, memory.
    """
    request = session.request
    path = session.path(request["plan"])
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as exc:
        raise Failure("refused", f"the plan cannot be read: {exc}") from exc
    made_by = plan_version(data[:28])
    if made_by is None:
        raise Failure("refused", f"{path} is no TensorRT plan", "build the engine again")
    if request.get("sha256") and hashlib.sha256(data).hexdigest() != request["sha256"]:
        raise Failure(
            "refused",
            f"{path} is not what its manifest says: the SHA-256 differs",
            "it was damaged or replaced: build the engine again",
        )
    before = session.log.mark()
    runtime = session.trt.Runtime(session.logger)
    if request.get("host_code"):
        runtime.engine_host_code_allowed = True
    engine = runtime.deserialize_cuda_engine(data)
    if engine is None:
        what = f"TensorRT {session.seen['tensorrt']} cannot load the plan (made by {made_by})"
        raise session.failure(before, what, "refused")
    return Loaded(runtime, engine, len(data))


class Port(NamedTuple):
    """An input or output of an engine, as :func:`engine_ports` reads it."""

    name: str
    is_input: bool
    dtype: str
    shape: Shape
    on_host: bool
    layout: str = "LINEAR"

    def size(self, shape: Shape) -> int:
        """Return the bytes of memory that *shape* takes."""
        return math.prod(stored_shape(shape, self.layout)) * _itemsize(self.dtype)


def engine_ports(trt: Any, engine: Any) -> list[Port]:
    """Return the inputs and outputs of *engine* in its order.

    Raises:
        Failure: refused, for types that NumPy lacks and layouts that only a DLA has.
    """
    ports = []
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        layout = str(engine.get_tensor_format(name).name)
        if layout != "LINEAR" and layout not in LAYOUTS:
            raise Failure("refused", f"'{name}' has the layout {layout}, which this runner lacks")
        ports.append(
            Port(
                name,
                engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT,
                dtype_of(name, engine.get_tensor_dtype(name)),
                tuple(engine.get_tensor_shape(name)),
                engine.get_tensor_location(name) == trt.TensorLocation.HOST,
                layout,
            )
        )
    return ports


def port_json(port: Port) -> Json:
    """Return a port for a result."""
    return {
        "name": port.name,
        "dtype": port.dtype,
        "shape": list(port.shape),
        "location": "host" if port.on_host else "device",
        "layout": port.layout,
    }


def fitting_profile(
    shapes: Mapping[str, Shape], profiles: Sequence[Mapping[str, Sequence[Shape]]]
) -> int:
    """Return the profile that fits best: of those that hold every shape the one with the next opt.

    Next is the least sum of |log2(size / opt)| over all axes; the first among equals.

    Raises:
        Failure: refused, with the ranges of all profiles.
    """
    fitting = [
        (_distance(shapes, bounds), index)
        for index, bounds in enumerate(profiles)
        if all(_inside(shapes[name], bound) for name, bound in bounds.items())
    ]
    if fitting:
        return min(fitting)[1]
    wrong = [
        f"'{name}' {list(shape)} (profiles: "
        + "; ".join(f"{list(p[name][0])} to {list(p[name][2])}" for p in profiles)
        + ")"
        for name, shape in shapes.items()
        if not any(name not in p or _inside(shape, p[name]) for p in profiles)
    ]
    if not wrong:
        raise Failure("refused", "no optimization profile holds all these shapes together")
    raise Failure(
        "refused",
        "no optimization profile holds " + ", ".join(wrong),
        "give a batch that fits, or build with wider model.dims",
    )


def _distance(shapes: Mapping[str, Shape], bounds: Mapping[str, Sequence[Shape]]) -> float:
    pairs = [pair for name, bound in bounds.items() for pair in _triples(shapes[name], bound[1])]
    return sum(abs(math.log2(max(size, 1) / max(opt, 1))) for size, opt in pairs)


def _inside(shape: Shape, bounds: Sequence[Shape]) -> bool:
    low, high = bounds[0], bounds[2]
    return len(shape) == len(low) and all(a <= b <= c for a, b, c in _triples(low, shape, high))


# == Running ===================================================================================


class Engine:
    """A loaded plan that runs on arrays: one context, one stream, buffers that are reused.

    :meth:`bind` takes feeds and prepares a run; then :meth:`upload`, :meth:`enqueue` and
    :meth:`download` may be called any number of times, :meth:`synchronize` waits, :meth:`outputs`
    reads.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self.cuda: Cuda = session.cuda
        self.runtime, self.engine, self.size = load_plan(session)
        self.ports = engine_ports(session.trt, self.engine)
        self.inputs = {port.name: port for port in self.ports if port.is_input}
        self.outputs_by_name = {port.name: port for port in self.ports if not port.is_input}
        before = session.log.mark()
        self.context = self.engine.create_execution_context()
        if self.context is None:
            raise session.failure(before, "no execution context", "memory")
        self.stream = self.cuda.call(
            "cudaStreamCreateWithFlags", self.cuda.api.cudaStreamNonBlocking
        )
        self.profiles = self._profiles()
        names = [port.name for port in self.ports]
        self.device = {name: Buffer(self.cuda, host=False) for name in names}
        self.pinned = {name: Buffer(self.cuda, host=True) for name in names}
        self.allocators: dict[str, Any] = {}
        self.shapes: dict[str, Shape] = {}
        self.timing: Any = None
        self.graph: Any = None
        self._captured: Any = None
        self._unknown: set[str] = set()

    def _profiles(self) -> list[dict[str, list[Shape]]]:
        """Return [min, opt, max] of each device input in each profile."""
        engine = self.engine

        def bounds(port: Port, index: int) -> list[Shape]:
            if -1 not in port.shape:
                return [port.shape] * 3
            return [tuple(shape) for shape in engine.get_tensor_profile_shape(port.name, index)]

        return [
            {port.name: bounds(port, index) for port in self.inputs.values() if not port.on_host}
            for index in range(engine.num_optimization_profiles)
        ]

    # -- preparing ---------------------------------------------------------------------------------

    def bind(self, feeds: Mapping[str, Array]) -> None:
        """Choose the profile, set shapes and addresses, and stage *feeds* in pinned memory.

        Device buffers of inputs are sized for the profile's largest shapes, so that they stay where
        they are. Feeds that the engine has no input for are ignored, with a warning in the log. A
        captured graph of other shapes is dropped.

        Raises:
            Failure: refused, memory, device.
        """
        for name in feeds.keys() - self.inputs.keys() - self._unknown:
            self.session.log.add("warning", f"the engine has no input '{name}': not fed")
            self._unknown.add(name)  # once is enough
        arrays = {
            name: as_type(name, _given(feeds, name, "the batch"), port.dtype)
            for name, port in self.inputs.items()
        }
        shapes = {
            name: array.shape for name, array in arrays.items() if not self.inputs[name].on_host
        }
        index = fitting_profile(shapes, self.profiles)
        self.synchronize()  # an upload of what was bound before may still read pinned memory
        self.set_profile(index)
        self.shapes = {}
        for name, array in arrays.items():
            self._bind_input(name, array, self.profiles[index].get(name))
        self._bind_outputs()
        if self._captured != self._state():
            self._drop_graph()

    def set_profile(self, index: int) -> None:
        """Make a profile the active one."""
        context = self.context
        if context.active_optimization_profile == index:
            return
        self._drop_graph()
        before = self.session.log.mark()
        if not context.set_optimization_profile_async(index, int(self.stream)):
            raise self.session.failure(before, f"profile {index} cannot be selected", "refused")
        self.synchronize()
        self.allocators.clear()  # set anew: what TensorRT keeps of them is not documented

    def _bind_input(self, name: str, array: Array, bounds: Sequence[Shape] | None) -> None:
        context, before = self.context, self.session.log.mark()
        port = self.inputs[name]
        size = port.size(array.shape)
        pinned = self.pinned[name].reserve(size)
        stored = stored_type(port.dtype)
        staged = pinned_array(pinned, stored, stored_shape(array.shape, port.layout))
        staged[...] = pack_layout(array.view(stored), port.layout)
        address = pinned
        if not port.on_host:
            address = self.device[name].reserve(max(size, port.size(bounds[2]) if bounds else 0))
        if not context.set_input_shape(name, array.shape):
            raise self.session.failure(before, f"input '{name}' {list(array.shape)}", "refused")
        if not context.set_tensor_address(name, address):
            raise self.session.failure(before, f"input '{name}'", "refused")
        self.shapes[name] = array.shape

    def _bind_outputs(self) -> None:
        context, before = self.context, self.session.log.mark()
        missing = context.infer_shapes()
        if missing:
            raise Failure("refused", f"the shapes of {', '.join(missing)} are not known")
        for name, port in self.outputs_by_name.items():
            shape = tuple(context.get_tensor_shape(name))
            if any(size < 0 for size in shape):  # only the run tells
                done = True
                if name not in self.allocators:  # each call keeps one more reference (pybind11)
                    self.allocators[name] = make_allocator(self.session.trt, self.device[name])
                    done = context.set_output_allocator(name, self.allocators[name])
            else:
                buffers = self.pinned if port.on_host else self.device
                done = context.set_tensor_address(name, buffers[name].reserve(port.size(shape)))
                if self.allocators.pop(name, None) is not None:
                    done = context.set_output_allocator(name, None) and done
            if not done:
                raise self.session.failure(before, f"output '{name}'", "refused")
            self.shapes[name] = shape

    # -- one run -----------------------------------------------------------------------------------

    def upload(self) -> None:
        """Enqueue the copies of all inputs to the device."""
        kind = self.cuda.api.cudaMemcpyKind.cudaMemcpyHostToDevice
        for name, port in self.inputs.items():
            if not port.on_host:
                size = port.size(self.shapes[name])
                self._copy(self.device[name].address, self.pinned[name].address, size, kind)

    def enqueue(self) -> None:
        """Enqueue the engine, or the captured graph of it."""
        if self.graph is not None:
            self.cuda.call("cudaGraphLaunch", self.graph, self.stream)
            return
        before = self.session.log.mark()
        for allocator in self.allocators.values():
            allocator.shape = allocator.problem = None
        if not self.context.execute_async_v3(int(self.stream)):
            for allocator in self.allocators.values():
                if allocator.problem is not None:
                    raise allocator.problem
            raise self.session.failure(before, "TensorRT did not run the engine", "device")

    def download(self) -> None:
        """Enqueue the copies of all outputs to pinned memory.

        Sizes that only the run tells are waited for.
        """
        if self.allocators:
            self.synchronize()
            for name, allocator in self.allocators.items():
                if allocator.shape is None:
                    raise Failure("device", f"TensorRT did not tell the shape of '{name}'")
                self.shapes[name] = allocator.shape
        kind = self.cuda.api.cudaMemcpyKind.cudaMemcpyDeviceToHost
        for name, port in self.outputs_by_name.items():
            if not port.on_host:
                size = port.size(self.shapes[name])
                self._copy(self.pinned[name].reserve(size), self.device[name].address, size, kind)

    def _copy(self, to: int, source: int, size: int, kind: Any) -> None:
        if size:
            self.cuda.call("cudaMemcpyAsync", to, source, size, kind, self.stream)

    def synchronize(self) -> None:
        """Wait for everything that was enqueued."""
        self.cuda.call("cudaStreamSynchronize", self.stream)

    def outputs(self) -> dict[str, Array]:
        """Return the outputs of the last run that was downloaded and waited for, as own arrays."""
        found = {}
        for name, port in self.outputs_by_name.items():
            shape, stored = self.shapes[name], stored_type(port.dtype)
            address, whole = self.pinned[name].address, stored_shape(shape, port.layout)
            array = unpack_layout(pinned_array(address, stored, whole).copy(), shape, port.layout)
            found[name] = from_bfloat16(array) if port.dtype == "bfloat16" else array
        return found

    def __call__(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Bind, run once and return the outputs by name.

        Raises:
            Failure: as :meth:`bind`; device.
        """
        self.bind(feeds)
        self.upload()
        self.enqueue()
        self.download()
        self.synchronize()
        return self.outputs()

    # -- CUDA graph --------------------------------------------------------------------------------

    def _state(self) -> Any:
        """Return what a captured graph holds fixed: profile, shapes and addresses."""
        addresses = [buffer.address for buffer in self.device.values()]
        return self.context.active_optimization_profile, sorted(self.shapes.items()), addresses

    def capture(self) -> str:
        """Capture the bound run as a CUDA graph; later runs of the same shapes launch it.

        Returns:
            An empty string, or why it cannot be captured; then runs go on without a graph.
        """
        if self.graph is not None and self._captured == self._state():
            return ""
        self._drop_graph()
        if self.allocators:
            return "the sizes of some outputs are known only after the run"
        if any(port.on_host for port in self.ports):
            return "shape tensors are read on the host"
        cuda, stream = self.cuda, self.stream
        captured: Any = None
        self.upload()
        self.enqueue()  # TensorRT does its lazy work of a new shape outside of the capture
        self.synchronize()
        mode = cuda.api.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        try:
            cuda.call("cudaStreamBeginCapture", stream, mode)
            recorded = False
            with contextlib.suppress(Failure):
                self.enqueue()
                recorded = True
            captured = cuda.call("cudaStreamEndCapture", stream)
            if not recorded:
                return "TensorRT cannot run this engine inside of a capture"
            self.graph = cuda.call("cudaGraphInstantiateWithFlags", captured, 0)
        except Failure as exc:
            cuda.api.cudaGetLastError()  # a failed capture must not fail the next call
            return exc.message
        finally:
            if captured is not None:
                cuda.api.cudaGraphDestroy(captured)
        self._captured = self._state()
        return ""

    def _drop_graph(self) -> None:
        if self.graph is not None:
            graph, self.graph, self._captured = self.graph, None, None
            self.cuda.call("cudaGraphExecDestroy", graph)

    def without_graph(self) -> None:
        """Run kernel by kernel from now on."""
        self._drop_graph()

    # -- per-layer times ---------------------------------------------------------------------------

    def layer_times(self, runs: int) -> list[Json]:
        """Return mean milliseconds of each layer over *runs* of what is bound, in engine order."""
        times: dict[str, list[float]] = {}
        context = self.context
        self.timing = make_profiler(self.session.trt, times)  # the context does not own it
        context.profiler = self.timing
        for _ in range(runs):
            self.enqueue()
            self.synchronize()
        return [
            {"name": name, "ms": statistics.fmean(values), "runs": len(values)}
            for name, values in times.items()
        ]

    def close(self) -> None:
        """Free everything, as far as a broken device lets us; the engine goes before its runtime.

        What cannot be freed is said in the log: it must not hide the failure that ended the work.
        """
        stream, self.stream = self.stream, None
        if stream is None:
            return
        steps: list[Callable[[], object]] = [
            lambda: self.cuda.call("cudaStreamSynchronize", stream),
            self._drop_graph,
            self._forget,
            *(buffer.free for buffer in (*self.device.values(), *self.pinned.values())),
            lambda: self.cuda.call("cudaStreamDestroy", stream),
        ]
        for step in steps:
            try:
                step()
            except Failure as exc:
                self.session.log.add("warning", f"closing the engine: {exc.message}")

    def _forget(self) -> None:
        self.context = self.timing = self.engine = self.runtime = None
        self.allocators.clear()

    def __enter__(self) -> Engine:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Free everything."""
        self.close()


def _itemsize(dtype: str) -> int:
    import numpy as np

    return int(np.dtype(stored_type(dtype)).itemsize)


def run(session: Session) -> Json:
    """Run a plan on batches; one ``.npz`` of outputs for each."""
    request, results, note = session.request, [], ""
    with Engine(session) as engine:
        for number, (source, target) in enumerate(request["batches"]):
            session.channel.progress(number / len(request["batches"]), f"batch {number + 1}")
            feeds = read_npz(session.path(source))
            if request.get("cuda_graph"):
                engine.bind(feeds)
                note = engine.capture()
            start = time.perf_counter()
            outputs = engine(feeds)
            elapsed = (time.perf_counter() - start) * 1e3
            write_npz(session.path(target), outputs)
            results.append(
                {
                    "outputs": {
                        name: {"dtype": array.dtype.name, "shape": list(array.shape)}
                        for name, array in outputs.items()
                    },
                    "ms": round(elapsed, 4),
                }
            )
        return {
            "batches": results,
            "inputs": [port_json(port) for port in engine.inputs.values()],
            "outputs": [port_json(port) for port in engine.outputs_by_name.values()],
            "cuda_graph": bool(request.get("cuda_graph")) and not note,
            "cuda_graph_note": note,
        }


# == Inspecting ================================================================================


def inspect(session: Session) -> Json:
    """Read a plan through its inspector, with a context that has the request's shapes.

    Without shapes every format of a dynamic engine reads "N/A due to dynamic shapes" (8.6).
    """
    request, trt = session.request, session.trt
    with Engine(session) as loaded:
        engine, context = loaded.engine, loaded.context
        feeds = read_npz(session.path(request["inputs"])) if request.get("inputs") else None
        if feeds is not None:
            loaded.bind(feeds)
        elif request.get("shapes"):
            _set_shapes(loaded, request["shapes"])
        times = None
        if request.get("time"):
            if feeds is None:
                raise Failure("bug", "time: true needs inputs")
            loaded.upload()
            loaded.enqueue()
            loaded.synchronize()
            times = loaded.layer_times(int(request.get("runs", 10)))
        inspector = engine.create_engine_inspector()
        inspector.execution_context = context
        text = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
        try:
            layers = json.loads(text, strict=False)  # 8.6 leaves control characters in strings
        except ValueError as exc:
            raise Failure("builder", f"the inspector's text is no JSON: {exc}") from exc
        return {
            "layers": layers,
            "inputs": [port_json(port) for port in loaded.inputs.values()],
            "outputs": [port_json(port) for port in loaded.outputs_by_name.values()],
            "profile": times,
            "plan_bytes": loaded.size,
            "weights_bytes": weights_bytes(session, engine),
            "device_memory_bytes": device_memory(session, engine),
            "num_layers": int(engine.num_layers),
            "profiles": loaded.profiles,
            "refittable": bool(engine.refittable),
        }


def _set_shapes(loaded: Engine, shapes: Mapping[str, Sequence[int]]) -> None:
    given = {
        name: tuple(shape)
        for name, shape in shapes.items()
        if name in loaded.inputs and not loaded.inputs[name].on_host
    }
    lost = [name for name, port in loaded.inputs.items() if name not in given and -1 in port.shape]
    if lost:
        raise Failure("refused", f"no shape was given for {', '.join(lost)}")
    fixed = {name: port.shape for name, port in loaded.inputs.items() if not port.on_host}
    loaded.set_profile(fitting_profile({**fixed, **given}, loaded.profiles))
    context = loaded.context
    for name, shape in given.items():
        if not context.set_input_shape(name, shape):
            raise Failure("refused", f"input '{name}' does not take {list(shape)}")


def weights_bytes(session: Session, engine: Any) -> int | None:
    """Return the bytes of all weights in an engine; None before TensorRT 10.14."""
    if session.named("EngineStat.TOTAL_WEIGHTS_SIZE") is None:
        return None
    return int(engine.get_engine_stat(session.trt.EngineStat.TOTAL_WEIGHTS_SIZE))


def device_memory(session: Session, engine: Any) -> int:
    """Return the bytes of activations that a context of the engine needs."""
    if session.named("ICudaEngine.device_memory_size_v2") is None:
        return int(engine.device_memory_size)
    return int(engine.device_memory_size_v2)


# == Benchmark =================================================================================


def summary(times_ms: Sequence[float], items: int) -> Json:
    """Return the statistics of *times_ms*, durations of runs of *items* items each.

    Returns:
        ``p50_ms``, ``p90_ms``, ``p99_ms`` (nearest rank above: the time that this share of the runs
        did not exceed), ``mean_ms``, ``std_ms`` (population), ``min_ms``, ``max_ms``; ``spread``
        ((p75 - p25) / p50); ``throughput`` in items per second of measured time; ``runs``;
        ``items``. The same as the stage ``benchmark`` gives for other runtimes.
    """
    ordered = sorted(times_ms)

    def at(percent: int) -> float:
        return ordered[max(1, -(-len(ordered) * percent // 100)) - 1]

    total = math.fsum(ordered)
    return {
        "p50_ms": at(50),
        "p90_ms": at(90),
        "p99_ms": at(99),
        "mean_ms": statistics.fmean(ordered),
        "std_ms": statistics.pstdev(ordered),
        "min_ms": ordered[0],
        "max_ms": ordered[-1],
        "spread": (at(75) - at(25)) / at(50) if at(50) else 0.0,
        "throughput": items * len(ordered) / (total / 1e3) if total else 0.0,
        "runs": len(ordered),
        "items": items,
    }


def repeat(
    once: Callable[[], object],
    at_least_ms: float,
    at_least_runs: int,
    clock: Callable[[], float] = time.perf_counter,
) -> int:
    """Call *once* until both limits are reached; return how often that was."""
    end = clock() + at_least_ms / 1e3
    runs = 0
    while True:
        once()
        runs += 1
        if runs >= at_least_runs and clock() >= end:
            return runs


class Timer:
    """Times of single runs: on the host's clock, and between two events on the stream."""

    def __init__(self, engine: Engine) -> None:
        self._cuda, self._stream = engine.cuda, engine.stream
        self._events = [self._cuda.call("cudaEventCreate") for _ in range(2)]
        self.host_ms: list[float] = []
        self.event_ms: list[float] = []

    def time(self, body: Callable[[], object]) -> None:
        """Run *body*, which enqueues work, and wait for it."""
        first, last = self._events
        start = time.perf_counter_ns()
        self._cuda.call("cudaEventRecord", first, self._stream)
        body()
        self._cuda.call("cudaEventRecord", last, self._stream)
        self._cuda.call("cudaStreamSynchronize", self._stream)
        self.host_ms.append((time.perf_counter_ns() - start) / 1e6)
        self.event_ms.append(float(self._cuda.call("cudaEventElapsedTime", first, last)))

    def clear(self) -> None:
        """Forget the times so far: they were warm-up."""
        self.host_ms.clear()
        self.event_ms.clear()

    def close(self) -> None:
        """Give the events back."""
        for event in self._events:
            self._cuda.call("cudaEventDestroy", event)


def measure(engine: Engine, transfers: bool, protocol: Json, items: int) -> Json:
    """Return ``host`` and ``event`` summaries of runs of what is bound, one at a time."""

    def body() -> None:
        if transfers:
            engine.upload()
        engine.enqueue()
        if transfers:
            engine.download()

    timer = Timer(engine)
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        repeat(lambda: timer.time(body), float(protocol["warmup_ms"]), 1)
        timer.clear()
        repeat(lambda: timer.time(body), float(protocol["measure_ms"]), int(protocol["min_runs"]))
        queued = _queued_ms(engine, body, len(timer.host_ms))
    finally:
        if collecting:
            gc.enable()
        timer.close()
    return {
        "host": summary(timer.host_ms, items),
        "event": summary(timer.event_ms, items),
        "queued_ms": queued,
    }


def _queued_ms(engine: Engine, body: Callable[[], object], runs: int) -> float:
    """Return mean milliseconds of runs that are enqueued without waiting for each other."""
    runs = min(runs, 1000)
    start = time.perf_counter()
    for _ in range(runs):
        body()
    engine.synchronize()
    return (time.perf_counter() - start) * 1e3 / runs


def combinations(protocol: Mapping[str, Any]) -> list[tuple[bool, bool]]:
    """Return the (cuda_graph, transfers) pairs to measure: the plain run, then what was asked for.

    A protocol that asks for both gets all four, so that what each of them costs can be told.
    """
    graphs = [False, True] if protocol.get("cuda_graph") else [False]
    transfers = [False, True] if protocol.get("transfers") else [False]
    return [(graph, transfer) for graph in graphs for transfer in transfers]


def benchmark(session: Session) -> Json:
    """Measure a plan on each of ``inputs`` (one ``.npz`` or several); see :func:`measure`.

    Returns:
        ``measurements``, one for each input and combination, with ``cuda_graph`` and ``transfers``
        as they were; ``p50_ms`` and the other statistics of the first input's last combination on
        the host's clock, which is what the protocol asked for; ``clocks`` before and after;
        ``cuda_graph_note``, why there was no graph although one was asked for.
    """
    request, protocol = session.request, session.request["protocol"]
    sources = request["inputs"] if isinstance(request["inputs"], list) else [request["inputs"]]
    nvml = session.neighbours.nvml
    before, found, note = nvml.clocks(), [], ""
    todo = [(source, pair) for source in sources for pair in combinations(protocol)]
    with Engine(session) as engine:
        for number, (source, (graph, transfers)) in enumerate(todo):
            session.channel.progress(
                number / len(todo),
                f"{os.path.basename(source)}: {'graph' if graph else 'plain'}"
                f"{', transfers' if transfers else ''}",
            )
            engine.without_graph()
            feeds = read_npz(session.path(source))
            outputs = engine(feeds)  # also fills the device buffers for runs without transfers
            if graph:
                note = engine.capture()
                if note:
                    continue
            items = int(request.get("items") or _items(engine, feeds))
            found.append(
                {
                    "inputs": source,
                    "shapes": {name: list(engine.shapes[name]) for name in engine.inputs},
                    "outputs": {name: list(array.shape) for name, array in outputs.items()},
                    "cuda_graph": graph,
                    "transfers": transfers,
                    **measure(engine, transfers, protocol, items),
                }
            )
    first = [row for row in found if row["inputs"] == sources[0]]
    return {
        **first[-1]["host"],
        "measurements": found,
        "cuda_graph_note": note,
        "clocks": {"before": before, "after": nvml.clocks()},
        "driver": nvml.driver(),
    }


def _items(engine: Engine, feeds: Mapping[str, Array]) -> int:
    """Return the size of axis 0 of the first input that has one."""
    shapes = [feeds[name].shape for name in engine.inputs if feeds[name].ndim]
    return int(shapes[0][0]) if shapes else 1


# == Refitting =================================================================================


def refit(session: Session) -> Json:
    """Put the weights of an ONNX file of the same graph into a refittable plan.

    Returns:
        ``bytes``, ``seconds``, and what the refitter knew: ``known`` ``weights`` by name, and
        ``layers`` as pairs of a layer and a role. All else in the engine is as it was.
    """
    laps = session.laps
    loaded = load_plan(session)
    engine = loaded.engine
    laps.lap("load")
    if not engine.refittable:
        raise Failure(
            "refused", "the engine was not built to be refitted", "build it with target.refit=refit"
        )
    before = session.log.mark()
    refitter = session.trt.Refitter(engine, session.logger)
    path = session.path(session.request["onnx"])
    known = known_weights(refitter)
    session.channel.progress(0.2, "refit")
    keep: Any = None
    if session.named("OnnxParserRefitter") is not None:
        refit_from_onnx(session, refitter, path)
    else:
        keep = refit_from_network(session, refitter, path)
    missing = list(refitter.get_missing()[0])
    if missing:
        text = ", ".join(missing[:8])
        raise Failure("refused", f"the ONNX file has no weights for {len(missing)} layers: {text}")
    if not refitter.refit_cuda_engine():
        raise session.failure(before, "TensorRT did not take the weights", "refused")
    del keep
    laps.lap("refit")
    session.channel.progress(0.8, "serialize")
    memory = serialized(session, engine)
    if memory is None:
        raise session.failure(before, "the refitted engine cannot be serialized", "builder")
    size = write_atomically(session.path(session.request["output"]), [memory])
    laps.lap("serialize")
    return {"bytes": size, "seconds": laps.report(inside="refit"), "known": known}


def known_weights(refitter: Any) -> Json:
    """Return what a refitter can replace: names of weights, and layers with roles."""
    layers = [[str(name), role.name] for name, role in _pairs(*refitter.get_all())]
    return {"weights": [str(name) for name in refitter.get_all_weights()], "layers": layers}


def refit_from_onnx(session: Session, refitter: Any, path: str) -> None:
    """Hand the weights of *path* to TensorRT's own refitter for ONNX (10.0 and later).

    Raises:
        Failure: refused, with ``errors``.
    """
    before = session.log.mark()
    parser_refitter = session.trt.OnnxParserRefitter(refitter, session.logger)
    if parser_refitter.refit_from_file(path):
        return
    errors = parser_errors(parser_refitter, read_onnx(path).nodes)
    if errors:
        raise Failure("refused", parser_message(errors), "build the engine again", errors=errors)
    raise session.failure(before, "TensorRT cannot refit from this file", "refused")


#: Where a layer's weights are, by its type: class, then role to attribute (TensorRT 8.6).
LAYER_WEIGHTS = {
    "CONVOLUTION": ("IConvolutionLayer", {"KERNEL": "kernel", "BIAS": "bias"}),
    "DECONVOLUTION": ("IDeconvolutionLayer", {"KERNEL": "kernel", "BIAS": "bias"}),
    "SCALE": ("IScaleLayer", {"SCALE": "scale", "SHIFT": "shift"}),
    "CONSTANT": ("IConstantLayer", {"CONSTANT": "weights"}),
}


def refit_from_network(session: Session, refitter: Any, path: str) -> Any:
    """Parse *path* again and set each layer's weights by layer name and role (TensorRT 8.6).

    The parser that made the plan's layers makes these, so whatever it folds is folded alike.

    Returns:
        What must live until the engine is refitted.

    Raises:
        Failure: refused, when layers do not agree with the plan's.
    """
    work = Building(session, "weak")
    parse_onnx(session, work.parser, path)
    network = work.network
    layers: dict[str, Any] = {}
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.name in layers:
            raise Failure("refused", f"two layers are named '{layer.name}': build the engine again")
        layers[layer.name] = layer
    for name, role in _pairs(*refitter.get_all()):
        weights = layer_weights(session, layers.get(name), role.name)
        if weights is None:
            raise Failure(
                "refused",
                f"the engine's layer '{name}' has {role.name} weights, the ONNX file's has none",
                "the graph changed: build the engine again",
            )
        before = session.log.mark()
        whole = whole_array(weights)  # and not converted by itself here (seen on 8.6)
        work.keep.append(whole)
        if not refitter.set_weights(name, role, session.trt.Weights(whole)):
            raise session.failure(before, f"the {role.name} weights of '{name}'", "refused")
    return work


def whole_array(weights: Any) -> Any:
    """Return a copy of weights that a binding gave as an array.

    8.6's bindings under NumPy 2 give a view with stride 0, which repeats the first element (seen):
    the elements lie behind its address all the same.
    """
    numpy = load_numpy()
    if weights.size < 2 or any(weights.strides):
        return numpy.ascontiguousarray(weights)
    address = weights.__array_interface__["data"][0]
    data = (ctypes.c_byte * (weights.size * weights.itemsize)).from_address(address)
    return numpy.frombuffer(data, dtype=weights.dtype).reshape(weights.shape).copy()


def _pairs(*lists: Sequence[Any]) -> Iterator[Any]:
    return zip(*lists)  # noqa: B905  (strict= is newer than Python 3.8)


def layer_weights(session: Session, layer: Any, role: str) -> Any:
    """Return the weights of a layer in a role, None when it has none.

    ``get_layer`` gives the base class; TensorRT's samples make it the real one by assignment.
    """
    if layer is None or layer.type.name not in LAYER_WEIGHTS:
        return None
    class_name, attributes = LAYER_WEIGHTS[layer.type.name]
    if role not in attributes:
        return None
    layer.__class__ = getattr(session.trt, class_name)
    return getattr(layer, attributes[role])


def serialized(session: Session, engine: Any) -> Any:
    """Return the engine as ``IHostMemory``, with its weights, refittable again where possible."""
    if session.named("ICudaEngine.serialize_with_config") is None:
        return engine.serialize()
    serialization = engine.create_serialization_config()
    serialization.clear_flag(session.trt.SerializationFlag.EXCLUDE_WEIGHTS)
    if session.named("SerializationFlag.INCLUDE_REFIT") is not None:
        serialization.set_flag(session.trt.SerializationFlag.INCLUDE_REFIT)
    return engine.serialize_with_config(serialization)


# == Operations ================================================================================


def probe(session: Session) -> Json:
    """Return what this TensorRT has, and its equal ``devices``; versions are in ``seen``."""
    devices = equal_devices(session.cuda, session.device, device_count(session.cuda))
    return {"capabilities": capabilities(session.trt), "devices": devices}


OPERATIONS: Mapping[str, Callable[[Session], Json]] = {
    "probe": probe,
    "build": build,
    "inspect": inspect,
    "run": run,
    "benchmark": benchmark,
    "refit": refit,
}
#: Fields that a request must have, with their types.
REQUIRED: Mapping[str, Mapping[str, type]] = {
    "probe": {},
    "build": {"onnx": str, "plan": str, "precision": dict},
    "inspect": {"plan": str},
    "run": {"plan": str, "batches": list},
    "benchmark": {"plan": str, "inputs": object, "protocol": dict},
    "refit": {"plan": str, "onnx": str, "output": str},
}
#: Fields that it may have; those of ``COMMON`` in every operation.
OPTIONAL: Mapping[str, Sequence[str]] = {
    "probe": (),
    "build": ("profiles", "options", "timing_cache", "calibration", "io_names"),
    "inspect": ("shapes", "inputs", "time", "runs", "sha256", "host_code"),
    "run": ("cuda_graph", "sha256", "host_code"),
    "benchmark": ("items", "sha256", "host_code"),
    "refit": ("sha256", "host_code"),
}
COMMON = ("op", "expect", "device", "gpu", "plugins", "log_level")
#: Operations that have the device for themselves: they say who used it beside them.
ALONE = ("build", "refit", "benchmark")


def check_request(request: Any) -> str:
    """Return the operation of a request.

    Raises:
        Failure: bug; requests are written by this project.
    """
    if not isinstance(request, dict):
        raise Failure("bug", "the request is no JSON object")
    op = str(request.get("op"))
    if op not in OPERATIONS:
        raise Failure("bug", f"the worker knows no operation {op!r}")
    for name, kind in REQUIRED[op].items():
        if not isinstance(request.get(name), kind) or name not in request:
            raise Failure("bug", f"{op}: '{name}' must be a {kind.__name__}")
    unknown = set(request) - {*REQUIRED[op], *OPTIONAL[op], *COMMON}
    if unknown:
        raise Failure("bug", f"{op}: unknown fields {', '.join(sorted(unknown))}")
    if request.get("log_level", "info") not in LEVELS:
        raise Failure("bug", f"log_level must be one of {', '.join(LEVELS)}")
    return op


def perform(directory: str, request: Any, channel: Channel) -> Json:
    """Return the result of *request*; never raises."""
    session: Session | None = None
    try:
        op = check_request(request)
        session = Session(directory, request, channel)
        if op != "probe":
            load_numpy()
        session.open()
        if op != "probe":
            session.prepare()
        values = OPERATIONS[op](session)
        if op in ALONE:
            values["neighbours"] = session.neighbours.seen()
        channel.progress(1.0, "done")
    except Failure as exc:
        return _refusal(exc, session)
    except MemoryError:
        return _refusal(Failure("memory", "this machine has no memory left"), session)
    except OSError as exc:
        return _refusal(file_failure(exc), session)
    except Exception as exc:  # noqa: BLE001  (whatever it is, the parent gets a result)
        text = f"{type(exc).__name__}: {exc}"
        return _refusal(Failure("bug", text, traceback=traceback.format_exc()), session)
    return {"ok": True, "values": values, "seen": session.seen}


def file_failure(exc: OSError) -> Failure:
    """Return the failure of a file that cannot be read or written, ``disk`` for want of space."""
    if exc.errno in NO_SPACE:
        return Failure("disk", f"there is no space left for the toolchain's files: {exc}")
    return Failure("refused", f"a file cannot be read or written: {exc}")


def _refusal(failure: Failure, session: Session | None) -> Json:
    return {
        "ok": False,
        "kind": failure.kind,
        "message": failure.message,
        "hint": failure.hint,
        "log": session.log.tail() if session else [],
        "seen": session.seen if session else interpreter_identity(),
        **failure.details,
    }


# == Transports ================================================================================


def read_request(directory: str) -> Any:
    """Return the request in *directory*; None when there is none that can be read."""
    try:
        with open(os.path.join(directory, REQUEST), encoding="utf-8") as file:
            return json.load(file)
    except (OSError, ValueError):
        return None


def work_in(directory: str, channel: Channel) -> None:
    """Perform the request in *directory* and leave the result there."""
    result = perform(directory, read_request(directory), channel)
    text = json.dumps(result, default=str)
    write_atomically(os.path.join(directory, RESULT), [text.encode()])


def unpack(stream: BinaryIO, directory: str) -> None:
    """Unpack a tar stream of plain files and folders below *directory*.

    Raises:
        Failure: bug, for a damaged stream and for names that lead out of the directory.
    """
    try:
        with tarfile.open(fileobj=stream, mode="r|") as tar:
            for member in tar:
                target = os.path.join(directory, inside(member.name))
                if member.isdir():
                    os.makedirs(target, exist_ok=True)
                    continue
                source = tar.extractfile(member) if member.isreg() else None
                if source is None:
                    raise Failure("bug", f"'{member.name}' in the request is no plain file")
                os.makedirs(os.path.dirname(target), exist_ok=True)
                with source, open(target, "wb") as file:
                    shutil.copyfileobj(source, file, 1 << 20)
    except tarfile.TarError as exc:
        raise Failure("bug", f"the request did not arrive whole: {exc}") from exc


def inside(name: str) -> str:
    """Return *name* if it stays below the directory that it is relative to.

    Raises:
        Failure: bug.
    """
    parts = name.split("/")
    if name.startswith("/") or ".." in parts or name in ("", "."):
        raise Failure("bug", f"'{name}' leads out of the directory")
    return name


def listing(directory: str) -> dict[str, tuple[int, int]]:
    """Return size and modification time of every plain file below *directory*, by relative name."""
    found = {}
    for folder, _, names in os.walk(directory):
        for name in names:
            path = os.path.join(folder, name)
            if os.path.islink(path) or name.endswith((".lock", ".part")):
                continue
            stat = os.stat(path)
            found[os.path.relpath(path, directory)] = (stat.st_size, stat.st_mtime_ns)
    return found


class _Counting(io.RawIOBase):
    """Counts what is written to a stream that takes anything."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream = stream
        self.count = 0

    def write(self, data: Any) -> int:
        self.count += len(data)
        self.stream.write(data)
        return len(data)


def pack(stream: BinaryIO, directory: str, names: Sequence[str], channel: Channel) -> None:
    """Announce and write the files *names* below *directory* as a tar stream."""
    infos = []
    for name in names:
        info = tarfile.TarInfo(name)
        info.size = os.stat(os.path.join(directory, name)).st_size
        infos.append(info)
    # A header (with GNU's extra records for long names), the data in blocks, two empty blocks, all
    # padded to a record: told before the first byte is sent, without a second copy on the disk.
    headers = [info.tobuf(tarfile.GNU_FORMAT) for info in infos]
    data = sum(-(-info.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE for info in infos)
    size = sum(map(len, headers)) + data + 2 * tarfile.BLOCKSIZE
    size = -(-size // tarfile.RECORDSIZE) * tarfile.RECORDSIZE
    channel.event("files", bytes=size)
    channel.close()
    counting = _Counting(stream)
    with tarfile.open(fileobj=counting, mode="w|", format=tarfile.GNU_FORMAT) as tar:
        for info in infos:
            with open(os.path.join(directory, info.name), "rb") as file:
                tar.addfile(info, file)
    stream.flush()
    assert counting.count == size, (counting.count, size)


def remove(path: str) -> None:
    """Remove a file, or a directory with all that is in it, as far as that can be done."""
    shutil.rmtree(path, ignore_errors=True)
    with contextlib.suppress(OSError):
        os.unlink(path)


def work_over_pipes(stdin: BinaryIO, channel: Channel) -> None:
    """Perform the request that *stdin* brings and send back what it left."""
    directory = tempfile.mkdtemp(prefix="orchestrate-worker-")
    try:
        before: dict[str, tuple[int, int]] = {}
        try:
            unpack(stdin, directory)
            before = listing(directory)
            work_in(directory, channel)
        except (Failure, OSError) as exc:
            failure = exc if isinstance(exc, Failure) else file_failure(exc)
            for name in os.listdir(directory):  # what came so far may be what fills the disk
                remove(os.path.join(directory, name))
            text = json.dumps(_refusal(failure, None))
            write_atomically(os.path.join(directory, RESULT), [text.encode()])
        changed = {name for name, stat in listing(directory).items() if before.get(name) != stat}
        pack(channel.stream, directory, sorted(changed), channel)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


# == Process ===================================================================================

USAGE = "usage: worker.py DIRECTORY | worker.py - | worker.py --op probe"


def claim_stdout() -> BinaryIO:
    """Return the real stdout; whatever libraries print from now on goes to stderr."""
    sys.stdout.flush()
    mine = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return mine


def main(arguments: Sequence[str]) -> int:
    """Serve one request and return the exit code."""
    words = list(arguments)
    if len(words) != 1 and words[:1] != ["--op"]:
        sys.stderr.write(USAGE + "\n")
        return 2
    faulthandler.enable()
    if words[0] == "--op":
        if words != ["--op", "probe"]:
            sys.stderr.write(USAGE + "\n")
            return 2
        channel = Channel(claim_stdout(), lost=lambda: None)
        channel.event("result", **perform(os.getcwd(), {"op": "probe"}, channel))
        return 0
    if words[0] == "-":
        channel = Channel(claim_stdout(), lost=lambda: os._exit(3))
        work_over_pipes(sys.stdin.buffer, channel)
        return 0
    if not os.path.isdir(words[0]):
        sys.stderr.write(f"there is no directory {words[0]}\n")
        return 2
    work_in(os.path.abspath(words[0]), Channel(claim_stdout(), lost=lambda: None))
    return 0


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stderr.flush()
    os._exit(code)  # the result is left; tearing down TensorRT and CUDA could only spoil the code
