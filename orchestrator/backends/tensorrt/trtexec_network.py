"""The part of the trtexec command that speaks of layers, tensors and plugin libraries.

Read in NVIDIA's ``sampleOptions.cpp`` and ``sampleEngines.cpp`` of 8.6.1, 10.0.1 … 10.16 and 11.1.
Each function appends to ``lacking`` what no flag of that version says.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from orchestrator.backends.tensorrt.versions import Lowering, Version
from orchestrator.config.tensorrt import TensorRTOptions

#: ONNX types of inputs and outputs in trtexec's words.
_WORDS: Final = {
    "float32": "fp32", "float16": "fp16", "bfloat16": "bf16", "int8": "int8", "int32": "int32",
    "int64": "int64", "uint8": "uint8", "bool": "bool",
}  # fmt: skip
#: What trtexec 8.6 knows.
_WORDS_OF_8: Final = ("fp32", "fp16", "int8", "int32")
_NO_LAYOUT_OF_8: Final = "hwc16"


def quoted(name: str) -> str:
    """Return a tensor's or layer's name as trtexec reads it: in single quotes if it has colons."""
    return f"'{name}'" if ":" in name else name


def layer_types(
    options: TensorRTOptions,
    lowering: Lowering,
    version: Version,
    keep_nodes: Sequence[str],
    lacking: list[str],
) -> Iterator[str]:
    """Yield the flags for types of layers; kept nodes are layers in fp32."""
    precisions = {node: "fp32" for node in keep_nodes if lowering.keep == "layers"}
    precisions.update(options.layer_precisions)
    outputs = {
        layer: words if isinstance(words, str) else "+".join(words)
        for layer, words in options.layer_output_types.items()
    }
    chosen = {
        "--layerPrecisions": _said("layer_precisions", precisions, version, lacking),
        "--layerOutputTypes": _said("layer_output_types", outputs, version, lacking),
    }
    if any(chosen.values()):
        yield f"--precisionConstraints={options.precision_constraints or 'obey'}"
    yield from (f"{flag}={','.join(entries)}" for flag, entries in chosen.items() if entries)


def layer_devices(options: TensorRTOptions, version: Version, lacking: list[str]) -> Iterator[str]:
    """Yield the flag for devices of layers."""
    entries = _said("layer_device_types", options.layer_device_types, version, lacking)
    if entries:
        yield f"--layerDeviceTypes={','.join(entries)}"
    if options.dla_core is not None:
        lacking.append("a DLA without PREFER_PRECISION_CONSTRAINTS, which --useDLACore sets")


def _said(
    option: str, entries: Mapping[str, str], version: Version, lacking: list[str]
) -> list[str]:
    """Return ``layer:word`` of what trtexec can say."""
    found = []
    for layer, word in entries.items():
        if _can_say(option, layer, version):
            found.append(f"{quoted(layer)}:{word}")
        else:
            lacking.append(f"{option}.{layer}={word}")
    return found


def _can_say(option: str, layer: str, version: Version) -> bool:
    """Return whether a name can be given: one wildcard, in 8.6 alone and not for devices."""
    if "," in layer:
        return False
    if version.major >= 10:
        return layer.count("*") <= 1
    return "*" not in layer or (layer == "*" and option != "layer_device_types")


def tensor_formats(
    options: TensorRTOptions,
    version: Version,
    ports: Mapping[str, Mapping[str, str]],
    lacking: list[str],
) -> Iterator[str]:
    """Yield the flags for types and layouts of inputs and outputs.

    trtexec wants one for each, in the network's order; *ports* is ``{"input": {name: dtype},
    "output": …}`` in that order.
    """
    for kind in ("input", "output"):
        wanted: Mapping[str, str] = getattr(options, f"{kind}_formats")
        if not wanted:
            continue
        entries = [_format(wanted.get(name, "chw"), dtype) for name, dtype in ports[kind].items()]
        words = [entry.partition(":")[2] if version.major >= 11 else entry for entry in entries]
        unknown = version.major < 10 and any(not _known_to_8(entry) for entry in entries)
        if unknown or not wanted.keys() <= ports[kind].keys():
            lacking.append(f"{kind}_formats")
        else:
            yield f"--{kind}IOFormats={','.join(words)}"


def _format(text: str, dtype: str) -> str:
    kind, _, layouts = text.rpartition(":")
    return f"{kind or _WORDS.get(dtype, dtype)}:{layouts}"


def _known_to_8(entry: str) -> bool:
    kind, _, layouts = entry.partition(":")
    return kind in _WORDS_OF_8 and _NO_LAYOUT_OF_8 not in layouts.split("+")


def debugging(options: TensorRTOptions) -> Iterator[str]:
    """Yield the flags for tensors to be read at run time and for attentions."""
    if options.mark_debug:
        yield f"--markDebug={','.join(options.mark_debug)}"
    if options.mark_unfused_debug:
        yield "--markUnfusedTensorsAsDebugTensors"
    if options.decomposable_attentions:
        names = ",".join(map(quoted, options.decomposable_attentions))
        yield f"--decomposableAttentions={names}"


def plugin_libraries(options: TensorRTOptions, plugins: Sequence[str]) -> Iterator[str]:
    """Yield the flags for plugin libraries; what travels in the plan is loaded dynamically."""
    carried = {Path(path).name for path in options.plugins_to_serialize}
    for path in plugins:
        if Path(path).name in carried:
            yield f"--dynamicPlugins={path}"
            yield f"--setPluginsToSerialize={path}"
        else:
            yield f"--staticPlugins={path}"
    if options.ignore_parsed_plugin_libs:
        yield "--ignoreParsedPluginLibs"
