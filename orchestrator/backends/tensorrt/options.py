"""The build options of a TensorRT target, checked against a version before the build."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from orchestrator.backends.tensorrt.api_since import SINCE
from orchestrator.backends.tensorrt.versions import Lowering, Version, why_missing
from orchestrator.config.tensorrt import TensorRTOptions
from orchestrator.errors import PlanError, nearest

#: Option → TensorRT names it needs when it is set (not at the value that means TensorRT's default).
NEEDS: Final[Mapping[str, str]] = {
    "optimization_level": "IBuilderConfig.builder_optimization_level",
    "max_aux_streams": "IBuilderConfig.max_aux_streams",
    "max_tactics": "IBuilderConfig.max_num_tactics",
    "max_threads": "Builder.max_threads",
    "input_formats": "ITensor.allowed_formats",
    "output_formats": "ITensor.allowed_formats",
    "layer_precisions": "ILayer.precision",
    "layer_output_types": "ILayer.set_output_type",
    "layer_device_types": "IBuilderConfig.set_device_type",
    "mark_debug": "INetworkDefinition.mark_debug",
    "mark_unfused_debug": "INetworkDefinition.mark_unfused_tensors_as_debug_tensors",
    "decomposable_attentions": "IAttention.decomposable",
    "plugins_to_serialize": "IBuilderConfig.plugins_to_serialize",
    "ignore_parsed_plugin_libs": "OnnxParser.get_used_vc_plugin_libraries",
    "sparsity": "BuilderFlag.SPARSE_WEIGHTS",
    "strip_weights": "BuilderFlag.STRIP_PLAN",
    "version_compatible": "BuilderFlag.VERSION_COMPATIBLE",
    "exclude_lean_runtime": "BuilderFlag.EXCLUDE_LEAN_RUNTIME",
    "native_instancenorm": "OnnxParserFlag.NATIVE_INSTANCENORM",
    "tiling_level": "IBuilderConfig.tiling_optimization_level",
    "l2_limit_tiling": "IBuilderConfig.l2_limit_for_tiling",
    "weight_streaming": "BuilderFlag.WEIGHT_STREAMING",
    "runtime_platform": "IBuilderConfig.runtime_platform",
    "dla_core": "IBuilderConfig.DLA_core",
    "gpu_fallback": "BuilderFlag.GPU_FALLBACK",
    "direct_io": "BuilderFlag.DIRECT_IO",
    "strict_nans": "BuilderFlag.STRICT_NANS",
    "build_route": "IBuilderConfig.build_route",
}
_REFIT: Final = {"refit": "REFIT", "identical": "REFIT_IDENTICAL", "individual": "REFIT_INDIVIDUAL"}
_CONSTRAINTS: Final = {
    "obey": "OBEY_PRECISION_CONSTRAINTS", "prefer": "PREFER_PRECISION_CONSTRAINTS",
}  # fmt: skip
_BY_PRECISION: Final = frozenset({
    "FP16", "BF16", "INT8", "FP8", "INT4", "FP4", "TF32", "STRICT_TYPES",
})  # fmt: skip
#: TensorRT's names of the types of layers and tensors.
_TYPES: Final = {
    "fp32": "FLOAT", "fp16": "HALF", "bf16": "BF16", "int8": "INT8", "int32": "INT32",
    "int64": "INT64", "uint8": "UINT8", "bool": "BOOL",
}  # fmt: skip
#: Options for what TensorRT may choose, or must, where the model does not say every type.
_WEAK_ONLY: Final = ("mix_with", "layer_precisions", "layer_output_types", "precision_constraints")
#: Members and properties that an option sets, to the option.
_OWN_FLAGS: Final = {
    "REFIT": "refit", "REFIT_IDENTICAL": "refit", "REFIT_INDIVIDUAL": "refit",
    "STRIP_PLAN": "strip_weights", "WEIGHTLESS": "strip_weights", "SPARSE_WEIGHTS": "sparsity",
    "VERSION_COMPATIBLE": "version_compatible", "EXCLUDE_LEAN_RUNTIME": "exclude_lean_runtime",
    "WEIGHT_STREAMING": "weight_streaming", "GPU_FALLBACK": "gpu_fallback",
    "DIRECT_IO": "direct_io", "STRICT_NANS": "strict_nans",
    **dict.fromkeys(_CONSTRAINTS.values(), "precision_constraints"),
}  # fmt: skip
_OWN_PROPERTIES: Final = {
    "builder_optimization_level": "optimization_level", "avg_timing_iterations": "avg_timing",
    "max_aux_streams": "max_aux_streams", "max_num_tactics": "max_tactics",
    "hardware_compatibility_level": "hardware_compatibility",
    "profiling_verbosity": "profiling_verbosity", "tiling_optimization_level": "tiling_level",
    "l2_limit_for_tiling": "l2_limit_tiling", "runtime_platform": "runtime_platform",
    "DLA_core": "dla_core", "default_device_type": "dla_core", "build_route": "build_route",
    "max_workspace_size": "workspace_mib", "flags": "builder_flags",
    "plugins_to_serialize": "plugins_to_serialize",
}  # fmt: skip
_NOT_SETTABLE: Final = frozenset({
    "int8_calibrator", "algorithm_selector", "progress_monitor", "profile_stream",
    "quantization_flags", "num_optimization_profiles", "all_build_routes",
})  # fmt: skip


def request(options: TensorRTOptions) -> dict[str, Any]:
    """Return the worker's ``options``: every field of :class:`TensorRTOptions` by its name.

    Plugin libraries go by their file names, under which the worker finds them.
    """
    fields = options.model_dump(mode="json", include=set(TensorRTOptions.model_fields))
    names = [Path(path).name for path in options.plugins_to_serialize]
    return {**fields, "plugins_to_serialize": names}


def check(
    options: TensorRTOptions,
    version: Version,
    toolchain: str = "the toolchain",
    *,
    lowering: Lowering | None = None,
    plugins: Sequence[str] = (),
) -> None:
    """Check that *version* has everything that *options* ask for, and that they do not contradict.

    Args:
        options: The build options.
        version: The toolchain's TensorRT.
        toolchain: Its name, for messages.
        lowering: How the precision is lowered there, where that is known: types of layers are for
            weakly typed networks, and must be among those that the precision allows.
        plugins: ``target.plugins``, of which some may travel in the plan.

    Raises:
        PlanError: the first option that cannot be honoured, with the version it needs.
    """
    for option, name in _used(options):
        reason = why_missing(name, version)
        if reason:
            raise _refused(option, name, reason, version, toolchain)
    problems = [*_taken(options), *_contradictions(options), *_plugin_problems(options, plugins)]
    if lowering is not None:
        problems += _type_problems(options, lowering, version)
    for option, message, hint in problems:
        raise PlanError(message, where=f"target.{option}", hint=hint)


def tf32(options: TensorRTOptions, lowering: Lowering) -> bool:
    """Return whether TF32 stays on: one switch for all, and off where a layer is given fp32."""
    return lowering.tf32 and "fp32" not in options.layer_precisions.values()


def carries_code(options: Mapping[str, Any]) -> bool:
    """Return whether a plan built with *options* (as :func:`request` gives them) holds host code.

    A version-compatible plan does: the lean runtime, or plugin libraries.
    """
    lean = not options["exclude_lean_runtime"]
    return bool(options["version_compatible"] and (lean or options["plugins_to_serialize"]))


def kept_nodes(options: TensorRTOptions, nodes: Iterable[str]) -> list[str]:
    """Return those of the ONNX *nodes* that ``layer_precisions`` give fp32, as the worker reads it.

    Keys that are TensorRT's own names of layers are in no ONNX model, and so not among them.
    """
    from orchestrator.backends.tensorrt.worker import fits

    precisions = options.layer_precisions
    found = ((node, fits(precisions, [node])) for node in nodes)
    return [node for node, keys in found if keys and precisions[keys[0]] == "fp32"]


def _used(options: TensorRTOptions) -> Iterator[tuple[str, str]]:
    """Yield (option, TensorRT name) for every name that the set options need."""
    defaults = TensorRTOptions()
    for option, name in NEEDS.items():
        if getattr(options, option) != getattr(defaults, option):
            yield option, name
    yield from _used_types(options)
    for pool in options.pools:
        yield f"pools.{pool}", f"MemoryPoolType.{pool}"
    for source in options.tactic_sources:
        yield "tactic_sources", f"TacticSource.{source[1:]}"
    for feature in options.preview_features:
        yield f"preview_features.{feature}", f"PreviewFeature.{feature}"
    if options.refit != "none":
        yield "refit", f"BuilderFlag.{_REFIT[options.refit]}"
    if options.hardware_compatibility != "none":
        level = options.hardware_compatibility.upper()
        yield "hardware_compatibility", f"HardwareCompatibilityLevel.{level}"
    if options.runtime_platform:
        yield "runtime_platform", f"RuntimePlatform.{options.runtime_platform.upper()}"
    for flag in options.parser_flags:
        yield f"parser_flags.{flag}", f"OnnxParserFlag.{flag}"
    for flag in set(options.builder_flags) - _BY_PRECISION - set(_OWN_FLAGS):
        yield f"builder_flags.{flag}", f"BuilderFlag.{flag}"
    for name in set(options.builder_properties) - set(_OWN_PROPERTIES) - _NOT_SETTABLE:
        yield f"builder_properties.{name}", f"IBuilderConfig.{name}"


def _used_types(options: TensorRTOptions) -> Iterator[tuple[str, str]]:
    for mixed in options.mix_with:
        yield "mix_with", f"BuilderFlag.{mixed.upper()}"
    if options.precision_constraints:
        flag = _CONSTRAINTS[options.precision_constraints]
        yield "precision_constraints", f"BuilderFlag.{flag}"
    for option, layer, word in _layer_types(options):
        yield f"{option}.{layer}", f"DataType.{_TYPES[word]}"
    for option in ("input_formats", "output_formats"):
        for tensor, text in getattr(options, option).items():
            word = text.rpartition(":")[0]
            if word:
                yield f"{option}.{tensor}", f"DataType.{_TYPES[word]}"


def _layer_types(options: TensorRTOptions) -> Iterator[tuple[str, str, str]]:
    """Yield (option, layer, type) of every type that a layer is given."""
    for layer, kind in options.layer_precisions.items():
        yield "layer_precisions", layer, kind
    for layer, kinds in options.layer_output_types.items():
        for word in [kinds] if isinstance(kinds, str) else kinds:
            yield "layer_output_types", layer, word


def _refused(option: str, name: str, reason: str, version: Version, toolchain: str) -> PlanError:
    prefix, _, last = name.rpartition(".")
    hint = nearest(last, SINCE.get(prefix, {}).keys() - {last}) if "in no" in reason else ""
    return PlanError(
        f"{name} {reason}; {toolchain} has {version}",
        where=f"target.{option}",
        hint=hint or "leave the option out, or use a toolchain whose TensorRT has it",
    )


def _taken(options: TensorRTOptions) -> Iterator[tuple[str, str, str]]:
    """Yield (option, message, hint) for what is passed through but has a key of its own."""
    for flag in options.builder_flags:
        if flag in _BY_PRECISION:
            yield (
                f"builder_flags.{flag}",
                f"BuilderFlag.{flag} is set by the precision asked for",
                "use precision=…",
            )
        if flag in _OWN_FLAGS:
            own = _OWN_FLAGS[flag]
            yield f"builder_flags.{flag}", f"BuilderFlag.{flag} has a key", f"use target.{own}"
    for flag in options.parser_flags:
        if flag == "NATIVE_INSTANCENORM":
            text = "OnnxParserFlag.NATIVE_INSTANCENORM has a key"
            yield f"parser_flags.{flag}", text, "use target.native_instancenorm"
    for name in options.builder_properties:
        where = f"builder_properties.{name}"
        if name in _OWN_PROPERTIES:
            yield where, f"IBuilderConfig.{name} has a key", f"use target.{_OWN_PROPERTIES[name]}"
        if name in _NOT_SETTABLE:
            yield where, f"IBuilderConfig.{name} takes no plain value", "leave it out"
    if "WORKSPACE" in options.pools:
        yield "pools.WORKSPACE", "the workspace pool has a key", "use target.workspace_mib"


def _contradictions(options: TensorRTOptions) -> Iterator[tuple[str, str, str]]:
    signs: dict[str, str] = {}
    for source in options.tactic_sources:
        if signs.setdefault(source[1:], source[0]) != source[0]:
            text = f"{source[1:]} is both switched on and off"
            yield "tactic_sources", text, "keep one of the two"
    if options.exclude_lean_runtime and not options.version_compatible:
        yield (
            "exclude_lean_runtime",
            "only a version-compatible plan carries a lean runtime that could be left out",
            "add target.version_compatible=true, or leave it out",
        )
    if options.gpu_fallback and options.dla_core is None:
        yield "gpu_fallback", "GPU fallback is for engines built for a DLA", "set target.dla_core"
    if options.layer_device_types and options.dla_core is None:
        text = "layers have a device of their own only beside a DLA"
        yield "layer_device_types", text, "set target.dla_core, which the others then run on"
    if options.precision_constraints and not any(_layer_types(options)):
        yield (
            "precision_constraints",
            "no layer is given a type that could be constrained",
            "set target.layer_precisions or target.layer_output_types, or leave it out",
        )
    compatible = options.version_compatible or options.hardware_compatibility != "none"
    if compatible and options.native_instancenorm is False:
        yield (
            "native_instancenorm",
            "version- and hardware-compatible engines cannot use the InstanceNormalization plugin",
            "leave target.native_instancenorm out",
        )
    if options.l2_limit_tiling is not None and options.tiling_level in (None, "none"):
        text = "the L2 limit is for tiling, and tiling is off"
        yield "l2_limit_tiling", text, "set target.tiling_level, or leave it out"


def _plugin_problems(
    options: TensorRTOptions, plugins: Sequence[str]
) -> Iterator[tuple[str, str, str]]:
    for option in ("plugins_to_serialize", "ignore_parsed_plugin_libs"):
        if getattr(options, option) and not options.version_compatible:
            text = "only a version-compatible plan carries plugin libraries"
            yield option, text, "add target.version_compatible=true, or leave it out"
    names = [Path(path).name for path in plugins]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield "plugins", f"two plugin libraries are named '{name}'", "rename one of them"
    for path in options.plugins_to_serialize:
        if options.plugins_to_serialize.count(path) > 1:
            yield "plugins_to_serialize", f"'{path}' is there twice", "keep one"
        if path not in plugins:
            text = f"'{path}' is not one of target.plugins"
            hint = nearest(path, plugins) or "add it there: it is loaded for the build too"
            yield "plugins_to_serialize", text, hint


def _type_problems(
    options: TensorRTOptions, lowering: Lowering, version: Version
) -> Iterator[tuple[str, str, str]]:
    """Yield what *options* ask of types that *lowering* does not leave open."""
    precision = f"precision={lowering.precision}"
    if options.dla_core is not None and lowering.precision in ("fp32", "tf32"):
        yield "dla_core", f"a DLA computes in fp16 and int8, not {precision}", "use precision=fp16"
    if lowering.mode == "strong":
        for option in _WEAK_ONLY:
            if getattr(options, option):
                yield (
                    option,
                    f"{precision} is strongly typed for TensorRT {version}: every type is the "
                    "model's",
                    "leave it out; precision.keep_nodes keeps operators in fp32",
                )
        return
    if options.mix_with and not lowering.flags:
        text = f"{precision} is not mixed with lower ones"
        yield "mix_with", text, f"use precision={options.mix_with[0]}"
    allowed = {"fp32", "int32", *options.mix_with, *(flag.lower() for flag in lowering.flags)}
    for option, layer, word in _layer_types(options):
        if word not in allowed:
            hint = "use precision=int8" if word == "int8" else f"add target.mix_with=[{word}]"
            hint = hint if lowering.flags else f"use precision={word}"
            yield f"{option}.{layer}", f"{precision} does not use {word}", hint
    if lowering.precision == "tf32" and "fp32" in options.layer_precisions.values():
        text = "TF32 is one switch for the whole engine: no layer can be kept in fp32"
        yield "layer_precisions", text, "use precision=fp32, or leave it out"
    if options.precision_constraints == "prefer" and lowering.keep == "layers":
        text = "operators that precision keeps in fp32 are obeyed, and TensorRT has one way for all"
        yield "precision_constraints", text, "use obey, or move them to target.layer_precisions"
