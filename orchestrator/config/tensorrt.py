"""How TensorRT builds an engine: the typed options of a TensorRT target.

Every option is keyed, and null (or the default shown) is what TensorRT itself does, with one
exception: ``profiling_verbosity`` is ``detailed``, because the audit reads the layers.

Layers are named as TensorRT's network names them or as the ONNX nodes they come from; ``*`` stands
for any text. The most exact name wins: the layer's, its node's, then the longest pattern.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field

from orchestrator.config.groups import Count, Group

#: Types of a network's inputs and outputs, and their memory layouts, as trtexec spells them.
IO_TYPES: Final = ("fp32", "fp16", "bf16", "int8", "int32", "int64", "uint8", "bool")
IO_LAYOUTS: Final = (
    "chw", "chw2", "chw4", "chw16", "chw32", "cdhw32", "hwc", "hwc8", "hwc16", "dhwc", "dhwc8",
    "dla_linear", "dla_hwc4",
)  # fmt: skip


def _io_format(text: str) -> str:
    """Check trtexec's grammar: ``[type:]layout[+layout…]``."""
    kind, _, layouts = text.rpartition(":")
    if kind and kind not in IO_TYPES:
        raise ValueError(f"'{text}': '{kind}' is no type; expected one of {', '.join(IO_TYPES)}")
    for layout in layouts.split("+"):
        if layout not in IO_LAYOUTS:
            raise ValueError(
                f"'{text}': '{layout}' is no memory layout; expected [type:]layout[+layout…] with "
                f"layouts of {', '.join(IO_LAYOUTS)}"
            )
    return text


Size = Annotated[float, Field(gt=0)]
Natural = Annotated[int, Field(ge=0)]
Name = Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]*$")]
Source = Annotated[str, Field(pattern=r"^[+-][A-Z][A-Z0-9_]*$")]
Property = bool | int | float | str
IOFormat = Annotated[str, AfterValidator(_io_format)]
LayerType = Literal["fp32", "fp16", "bf16", "int8"]
OutputType = Literal["fp32", "fp16", "bf16", "int8", "int32"]


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
    max_threads: Count | None = Field(
        default=None, description="Threads that the builder may use (default: its own choice)."
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
    input_formats: dict[str, IOFormat] = Field(
        default_factory=dict,
        description="Per input, its type and memory layout: fp16:chw16, or several layouts that "
        "TensorRT may choose from, fp16:chw+hwc8, or layouts alone. Types can be changed only "
        "where TensorRT is typed weakly (8.6); elsewhere they are the model's.",
    )
    output_formats: dict[str, IOFormat] = Field(
        default_factory=dict, description="Per output, as input_formats."
    )
    mix_with: list[Literal["fp16", "bf16"]] = Field(
        default_factory=list,
        description="Weak typing only (8.6; calibrators on 10.x): types that TensorRT may choose "
        "besides the precision's, such as fp16 beside int8.",
    )
    layer_precisions: dict[str, LayerType] = Field(
        default_factory=dict,
        description="Weak typing only: the type that layers compute in. precision.keep_nodes does "
        "this for fp32 in every version.",
    )
    layer_output_types: dict[str, OutputType | list[OutputType]] = Field(
        default_factory=dict,
        description="Weak typing only: the type of a layer's outputs, or of each of them.",
    )
    precision_constraints: Literal["obey", "prefer"] | None = Field(
        default=None,
        description="Whether layer types are kept or the build fails (the default, obey), or are "
        "kept where a tactic exists.",
    )
    mark_debug: list[str] = Field(
        default_factory=list,
        description="Tensors that can be read while the engine runs; they are not fused away. "
        "TensorRT >= 10.0.",
    )
    mark_unfused_debug: bool = Field(
        default=False,
        description="Every tensor that is left after fusion can be read while the engine runs. "
        "TensorRT >= 10.12.",
    )
    decomposable_attentions: list[str] = Field(
        default_factory=list,
        description="Attentions, by name, that may be built from several kernels where no fused "
        "one fits. TensorRT >= 10.14.",
    )
    plugins_to_serialize: list[str] = Field(
        default_factory=list,
        description="Those of target.plugins that a version-compatible plan carries.",
    )
    ignore_parsed_plugin_libs: bool = Field(
        default=False,
        description="Leave the plugin libraries that the parser names out of a version-compatible "
        "plan: whoever loads it must load them.",
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
    layer_device_types: dict[str, Literal["GPU", "DLA"]] = Field(
        default_factory=dict,
        description="The device of layers; others run on the DLA of dla_core.",
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
