"""The trtexec command that builds the same engine, in the flags of the toolchain's TensorRT.

Flags were read in NVIDIA's ``sampleOptions.cpp`` of 8.6.1, 10.0.1 … 10.16 and 11.1. What no flag
says is named in a comment behind the command, so that nobody takes the line for more than it is.
The command was not run; the option parsers of 8.6.1, 10.16 and 11.1, compiled alone, take it.

Not a build option of ours, since something else decides it: ``--calibProfile`` and the shapes for
calibration (the batches of the data group), ``--best`` (a precision is one word; ``mix_with`` adds
types), ``--stronglyTyped`` (the version), ``--sparsity=force`` (it rewrites weights).
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from orchestrator.backends.tensorrt.options import tf32
from orchestrator.backends.tensorrt.profiles import ProfileShapes
from orchestrator.backends.tensorrt.trtexec_network import (
    debugging,
    layer_devices,
    layer_types,
    plugin_libraries,
    quoted,
    tensor_formats,
)
from orchestrator.backends.tensorrt.versions import Lowering, Version
from orchestrator.config.tensorrt import TensorRTOptions

_PRECISION_FLAGS: Final = {"FP16": "--fp16", "BF16": "--bf16", "INT8": "--int8", "FP8": "--fp8"}
_POOLS: Final = {
    "DLA_MANAGED_SRAM": "dlaSRAM", "DLA_LOCAL_DRAM": "dlaLocalDRAM",
    "DLA_GLOBAL_DRAM": "dlaGlobalDRAM", "TACTIC_SHARED_MEMORY": "tacticSharedMem",
}  # fmt: skip
_PREVIEW: Final = {
    "PROFILE_SHARING_0806": "profileSharing0806",
    "FASTER_DYNAMIC_SHAPES_0805": "fasterDynamicShapes0805",
    "DISABLE_EXTERNAL_TACTIC_SOURCES_FOR_CORE_0805": "disableExternalTacticSourcesForCore0805",
    "ALIASED_PLUGIN_IO_10_03": "aliasedPluginIO1003",
    "RUNTIME_ACTIVATION_RESIZE_10_10": "runtimeActivationResize",
    "MULTIDEVICE_RUNTIME_10_16": "multiDeviceRuntime",
}
#: Member → (flag, first trtexec with it).
_BUILDER_FLAGS: Final = {
    "DISABLE_TIMING_CACHE": ("--noBuilderCache", (8, 6)),
    "DISABLE_COMPILATION_CACHE": ("--noCompilationCache", (10, 0)),
    "ERROR_ON_TIMING_CACHE_MISS": ("--errorOnTimingCacheMiss", (10, 0)),
    "MONITOR_MEMORY": ("--monitorMemory", (10, 6)),
    "DISTRIBUTIVE_INDEPENDENCE": ("--distributiveIndependence", (10, 12)),
}
_PARSER_FLAGS: Final = {
    "ENABLE_PLUGIN_OVERRIDE": ("--enablePluginOverride", (10, 15)),
    "REPORT_CAPABILITY_DLA": ("--reportCapabilityDLA", (10, 16)),
    "ADJUST_FOR_DLA": ("--adjustForDLA", (10, 16)),
    "ENABLE_UINT8_AND_ASYMMETRIC_QUANTIZATION_DLA": ("--uint8AsymmetricQuantizationDLA", (10, 11)),
}
_SWITCHES: Final = {
    "version_compatible": "--versionCompatible",
    "exclude_lean_runtime": "--excludeLeanRuntime",
    "strip_weights": "--stripWeights",
    "weight_streaming": "--allowWeightStreaming",
    "direct_io": "--directIO",
    "gpu_fallback": "--allowGPUFallback",
}
_VALUES: Final = {
    "optimization_level": "--builderOptimizationLevel",
    "max_aux_streams": "--maxAuxStreams",
    "max_tactics": "--maxTactics",
    "l2_limit_tiling": "--l2LimitForTiling",
    "dla_core": "--useDLACore",
    "build_route": "--setBuildRoute",
}
_LEVELS: Final = {"ampere_plus": "ampere+", "same_compute_capability": "sameComputeCapability"}
_PLATFORMS: Final = {"same_as_build": "SameAsBuild", "windows_amd64": "WindowsAMD64"}
_TILING: Final = {"none": 0, "fast": 1, "moderate": 2, "full": 3}


def trtexec_line(
    options: TensorRTOptions,
    profiles: Sequence[ProfileShapes],
    precision: Lowering,
    version: Version,
    *,
    onnx: str = "model.onnx",
    plan: str = "model.plan",
    keep_nodes: Sequence[str] = (),
    keep_op_types: Sequence[str] = (),
    timing_cache: str | None = None,
    calibration_cache: str | None = None,
    plugins: Sequence[str] = (),
    inputs: Mapping[str, str] | None = None,
    outputs: Mapping[str, str] | None = None,
) -> str:
    """Return the command as one shell line; what it cannot say follows behind ``#``.

    Args:
        options: The build options, already checked against *version*.
        profiles: As :func:`orchestrator.backends.tensorrt.profiles.make_profiles` returns them.
        precision: The lowering; the ONNX file must be of the type it names.
        version: The toolchain's TensorRT: flags differ between majors.
        onnx: Path of the model.
        plan: Path of the engine that is written.
        keep_nodes: Nodes kept in fp32 by layer precisions.
        keep_op_types: Operators kept in fp32 by layer precisions: no flag says it.
        timing_cache: Path of the timing cache, if one is used.
        calibration_cache: int8 by calibrators: path of the calibration table.
        plugins: Plugin libraries.
        inputs: Type (``float32``) of each input in the network's order: trtexec wants the format of
            all where one is given.
        outputs: The same of outputs.
    """
    words = ["trtexec", f"--onnx={onnx}", f"--saveEngine={plan}", "--skipInference"]
    lacking: list[str] = []
    words += _precision(options, precision, version, calibration_cache, lacking)
    words += layer_types(options, precision, version, keep_nodes, lacking)
    if precision.keep == "layers" and keep_op_types:
        lacking.append(f"fp32 for {', '.join(keep_op_types)}")
    words += _profiles(profiles, version, lacking)
    words += _options(options, version, lacking)
    words += layer_devices(options, version, lacking)
    ports = {"input": inputs or {}, "output": outputs or {}}
    words += tensor_formats(options, version, ports, lacking)
    words += debugging(options)
    if timing_cache is not None:
        words.append(f"--timingCacheFile={timing_cache}")
    words += plugin_libraries(options, plugins)
    line = " ".join(shlex.quote(word) for word in words)
    return f"{line}  # no flag for: {'; '.join(lacking)}" if lacking else line


def _precision(
    options: TensorRTOptions,
    lowering: Lowering,
    version: Version,
    calibration_cache: str | None,
    lacking: list[str],
) -> list[str]:
    flags = dict.fromkeys([*lowering.flags, *(word.upper() for word in options.mix_with)])
    words = [_PRECISION_FLAGS[flag] for flag in flags if flag in _PRECISION_FLAGS]
    if lowering.mode == "strong" and version.major == 10:
        words.append("--stronglyTyped")  # 11 takes and ignores it: every network is
    if not tf32(options, lowering):
        words.append("--noTF32")
    if lowering.calibrator and calibration_cache is not None:
        words.append(f"--calib={calibration_cache}")
    elif lowering.calibrator:
        lacking.append(f"calibration data ({lowering.calibrator}): trtexec would make up numbers")
    return words


def _profiles(profiles: Sequence[ProfileShapes], version: Version, lacking: list[str]) -> list[str]:
    words: list[str] = []
    shown = profiles if version.major >= 10 else profiles[:1]
    for index, profile in enumerate(shown):
        if len(shown) > 1:
            words.append(f"--profile={index}")
        for point in ("min", "opt", "max"):
            shapes = (
                f"{quoted(name)}:{'x'.join(map(str, ranges[point]))}"
                for name, ranges in profile.items()
                if ranges[point]
            )
            words.append(f"--{point}Shapes={','.join(shapes)}")
    if len(profiles) > len(shown):
        lacking.append(f"profiles 1 to {len(profiles) - 1}")
    return words


def _options(options: TensorRTOptions, version: Version, lacking: list[str]) -> Iterator[str]:
    for option, flag in _VALUES.items():
        value = getattr(options, option)
        if value is not None:
            yield f"{flag}={value}"
    # Null is the API's 1; trtexec alone would average 8.
    yield f"--avgTiming={options.avg_timing or 1}"
    yield from (flag for option, flag in _SWITCHES.items() if getattr(options, option))
    yield from _pools(options, lacking)
    if options.sparsity:
        yield "--sparsity=enable"
    if options.tactic_sources:
        yield f"--tacticSources={','.join(options.tactic_sources)}"
    yield from _refit(options, lacking)
    if options.hardware_compatibility != "none":
        yield f"--hardwareCompatibilityLevel={_LEVELS[options.hardware_compatibility]}"
    if options.runtime_platform is not None:
        yield f"--runtimePlatform={_PLATFORMS[options.runtime_platform]}"
    if options.tiling_level is not None:
        yield f"--tilingOptimizationLevel={_TILING[options.tiling_level]}"
    yield f"--profilingVerbosity={options.profiling_verbosity}"
    yield from _instance_norm(options, version, lacking)
    yield from _preview(options, version, lacking)
    yield from _members(options.builder_flags, _BUILDER_FLAGS, version, "builder_flags", lacking)
    yield from _members(options.parser_flags, _PARSER_FLAGS, version, "parser_flags", lacking)
    if options.strict_nans:
        lacking.append("strict_nans")
    if options.max_threads is not None:
        lacking.append(f"max_threads={options.max_threads}")
    lacking.extend(f"builder_properties.{name}" for name in options.builder_properties)


def _pools(options: TensorRTOptions, lacking: list[str]) -> Iterator[str]:
    """Sizes go without a suffix: every major reads MiB then, and 8.6 knows no suffix."""
    sizes = [] if options.workspace_mib is None else [f"workspace:{options.workspace_mib:g}"]
    for pool, size in options.pools.items():
        if pool in _POOLS:
            sizes.append(f"{_POOLS[pool]}:{size:g}")
        else:
            lacking.append(f"pools.{pool}")
    if sizes:
        yield f"--memPoolSize={','.join(sizes)}"


def _refit(options: TensorRTOptions, lacking: list[str]) -> Iterator[str]:
    if options.refit == "refit":
        yield "--refit"
    elif options.refit == "identical" and options.strip_weights:
        return  # what --stripWeights alone means
    elif options.refit != "none":
        lacking.append(f"refit={options.refit}")


def _instance_norm(options: TensorRTOptions, version: Version, lacking: list[str]) -> Iterator[str]:
    native = options.native_instancenorm
    if version.major >= 10 and native is False:
        yield "--pluginInstanceNorm"
    compatible = options.version_compatible or options.hardware_compatibility != "none"
    if version.major < 10 and native and not compatible:
        lacking.append("native_instancenorm=true")


def _preview(options: TensorRTOptions, version: Version, lacking: list[str]) -> Iterator[str]:
    shown = []
    for feature, on in options.preview_features.items():
        if feature not in _PREVIEW or (feature == "PROFILE_SHARING_0806" and version.major >= 10):
            lacking.append(f"preview_features.{feature}")
        else:
            shown.append(f"{'+' if on else '-'}{_PREVIEW[feature]}")
    if shown:
        yield f"--preview={','.join(shown)}"


def _members(
    chosen: Mapping[str, bool],
    flags: Mapping[str, tuple[str, tuple[int, int]]],
    version: Version,
    option: str,
    lacking: list[str],
) -> Iterator[str]:
    for name, on in chosen.items():
        flag, first = flags.get(name, ("", (0, 0)))
        if on and flag and version.parts >= first:
            yield flag
        elif on or not flag:
            lacking.append(f"{option}.{name}={str(on).lower()}")
