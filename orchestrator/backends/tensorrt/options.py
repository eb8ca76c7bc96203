"""The build options of a TensorRT target: typed, checked against a version before the build.

Every option is keyed, and null (or the default shown) is what TensorRT itself does, with one
exception: ``profiling_verbosity`` is ``detailed``, because the audit reads the layers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import Field

from orchestrator.backends.tensorrt.api_since import SINCE
from orchestrator.backends.tensorrt.versions import Version, why_missing
from orchestrator.config.schema import Count, Group
from orchestrator.errors import PlanError, nearest

Size = Annotated[float, Field(gt=0)]
Natural = Annotated[int, Field(ge=0)]
Name = Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]*$")]
Source = Annotated[str, Field(pattern=r"^[+-][A-Z][A-Z0-9_]*$")]
Property = bool | int | float | str


class TensorRTOptions(Group):
    """How TensorRT builds an engine. Null leaves TensorRT's default."""

    workspace_mib: Size | None = Field(
        default=None, description="Scratch memory a layer may use, in MiB (default: all there is)."
    )
    pools: dict[Name, Size] = Field(
        default_factory=dict,
        description="Limits of further memory pools, in MiB: TACTIC_SHARED_MEMORY, TACTIC_DRAM, "
        "DLA_MANAGED_SRAM, DLA_LOCAL_DRAM, DLA_GLOBAL_DRAM.",
    )
    optimization_level: Annotated[int, Field(ge=0, le=5)] | None = Field(
        default=None, description="How long to search (default 3); 0 ignores the timing cache."
    )
    avg_timing: Count | None = Field(
        default=None, description="Timings averaged per tactic (default 1; trtexec uses 8)."
    )
    max_aux_streams: Natural | None = Field(
        default=None, description="Auxiliary streams an engine may use; 0: one stream."
    )
    max_tactics: Count | None = Field(
        default=None, description="Tactics timed per layer. TensorRT >= 10.4."
    )
    tactic_sources: list[Source] = Field(
        default_factory=list, description="+NAME or -NAME, against the version's default."
    )
    preview_features: dict[Name, bool] = Field(
        default_factory=dict, description="Preview features by name, on or off."
    )
    sparsity: bool = Field(default=False, description="Use 2:4 sparse kernels where weights allow.")
    refit: Literal["none", "refit", "identical", "individual"] = Field(
        default="none",
        description="Weights that can be replaced later: all, only by the same values (>= 10.0), "
        "or those marked one by one (>= 10.2).",
    )
    strip_weights: bool = Field(
        default=False, description="Leave weights out of the plan; refit fills them in. >= 10.0."
    )
    version_compatible: bool = Field(
        default=False, description="A plan that later TensorRT versions load too."
    )
    exclude_lean_runtime: bool = Field(
        default=False, description="Leave the lean runtime out of a version-compatible plan."
    )
    hardware_compatibility: Literal["none", "ampere_plus", "same_compute_capability"] = Field(
        default="none", description="Other GPUs that load the plan (the last one >= 10.9)."
    )
    profiling_verbosity: Literal["none", "layer_names_only", "detailed"] = Field(
        default="detailed", description="What a plan tells of its layers; the audit needs detailed."
    )
    native_instancenorm: bool | None = Field(
        default=None,
        description="InstanceNormalization by TensorRT's own layers, not the plugin (default: off "
        "in 8.6, on since 10.0).",
    )
    tiling_level: Literal["none", "fast", "moderate", "full"] | None = Field(
        default=None, description="How much tiling is searched for. TensorRT >= 10.8."
    )
    l2_limit_tiling: Count | None = Field(
        default=None, description="L2 cache that tiling may use, in bytes. TensorRT >= 10.8."
    )
    weight_streaming: bool = Field(
        default=False, description="Weights may stay in host memory. TensorRT >= 10.0."
    )
    runtime_platform: Literal["same_as_build", "windows_amd64"] | None = Field(
        default=None, description="The system that will run the plan. TensorRT >= 10.2."
    )
    dla_core: Natural | None = Field(default=None, description="DLA core to build for.")
    gpu_fallback: bool = Field(
        default=False, description="Layers that the DLA cannot run go to the GPU."
    )
    direct_io: bool = Field(
        default=False, description="No reformatting at inputs and outputs (deprecated)."
    )
    strict_nans: bool = Field(
        default=False, description="Keep NaN semantics exact. TensorRT >= 10.6."
    )
    build_route: str | None = Field(
        default=None, description="A build route's knobs, as TensorRT >= 11.1 writes them."
    )
    parser_flags: dict[Name, bool] = Field(
        default_factory=dict, description="Further OnnxParserFlag members, on or off."
    )
    builder_flags: dict[Name, bool] = Field(
        default_factory=dict,
        description="Further BuilderFlag members, on or off, such as ERROR_ON_TIMING_CACHE_MISS.",
    )
    builder_properties: dict[str, Property] = Field(
        default_factory=dict, description="Further properties of IBuilderConfig, by name."
    )


#: Option → TensorRT names it needs when it is set (not at the value that means TensorRT's default).
NEEDS: Final[Mapping[str, str]] = {
    "optimization_level": "IBuilderConfig.builder_optimization_level",
    "max_aux_streams": "IBuilderConfig.max_aux_streams",
    "max_tactics": "IBuilderConfig.max_num_tactics",
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
_BY_PRECISION: Final = frozenset({
    "FP16", "BF16", "INT8", "FP8", "INT4", "FP4", "TF32", "OBEY_PRECISION_CONSTRAINTS",
    "PREFER_PRECISION_CONSTRAINTS", "STRICT_TYPES",
})  # fmt: skip
#: Members and properties that an option sets, to the option.
_OWN_FLAGS: Final = {
    "REFIT": "refit", "REFIT_IDENTICAL": "refit", "REFIT_INDIVIDUAL": "refit",
    "STRIP_PLAN": "strip_weights", "WEIGHTLESS": "strip_weights", "SPARSE_WEIGHTS": "sparsity",
    "VERSION_COMPATIBLE": "version_compatible", "EXCLUDE_LEAN_RUNTIME": "exclude_lean_runtime",
    "WEIGHT_STREAMING": "weight_streaming", "GPU_FALLBACK": "gpu_fallback",
    "DIRECT_IO": "direct_io", "STRICT_NANS": "strict_nans",
}  # fmt: skip
_OWN_PROPERTIES: Final = {
    "builder_optimization_level": "optimization_level", "avg_timing_iterations": "avg_timing",
    "max_aux_streams": "max_aux_streams", "max_num_tactics": "max_tactics",
    "hardware_compatibility_level": "hardware_compatibility",
    "profiling_verbosity": "profiling_verbosity", "tiling_optimization_level": "tiling_level",
    "l2_limit_for_tiling": "l2_limit_tiling", "runtime_platform": "runtime_platform",
    "DLA_core": "dla_core", "default_device_type": "dla_core", "build_route": "build_route",
    "max_workspace_size": "workspace_mib", "flags": "builder_flags",
}  # fmt: skip
_NOT_SETTABLE: Final = frozenset({
    "int8_calibrator", "algorithm_selector", "progress_monitor", "plugins_to_serialize",
    "profile_stream", "quantization_flags", "num_optimization_profiles", "all_build_routes",
})  # fmt: skip


def request(options: TensorRTOptions) -> dict[str, Any]:
    """Return the worker's ``options``: every field of :class:`TensorRTOptions` by its name."""
    return options.model_dump(mode="json", include=set(TensorRTOptions.model_fields))


def check(options: TensorRTOptions, version: Version, toolchain: str = "the toolchain") -> None:
    """Check that *version* has everything that *options* ask for, and that they do not contradict.

    Raises:
        PlanError: the first option that cannot be honoured, with the version it needs.
    """
    for option, name in _used(options):
        reason = why_missing(name, version)
        if reason:
            raise _refused(option, name, reason, version, toolchain)
    for option, message, hint in (*_taken(options), *_contradictions(options)):
        raise PlanError(message, where=f"target.{option}", hint=hint)


def _used(options: TensorRTOptions) -> Iterator[tuple[str, str]]:
    """Yield (option, TensorRT name) for every name that the set options need."""
    defaults = TensorRTOptions()
    for option, name in NEEDS.items():
        if getattr(options, option) != getattr(defaults, option):
            yield option, name
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
