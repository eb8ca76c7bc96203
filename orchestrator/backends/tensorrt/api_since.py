"""First and last TensorRT release of every name that the build options use.

Introspected from the Python bindings of 24 releases, 8.6.1 to 11.4.0; 9.x was not among them. A
name that left between 8.6 and 10.0 is listed as gone in 10.0. Versions are ``major.minor``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

#: The newest release that was looked at; nothing is known of names that later ones add.
NEWEST: Final = "11.4"

#: Qualified prefix (empty for classes) → name → (first release, first release without it or "").
SINCE: Final[Mapping[str, Mapping[str, tuple[str, str]]]] = {
    "": {
        "IInt8EntropyCalibrator2": ("8.6", "11.0"),
        "IInt8MinMaxCalibrator": ("8.6", "11.0"),
        "OnnxParserRefitter": ("10.0", ""),
    },
    "Builder": {
        "max_threads": ("8.6", ""),
    },
    "BuilderFlag": {
        "BF16": ("10.0", "11.0"),
        "DEBUG": ("8.6", ""),
        "DIRECT_IO": ("8.6", ""),
        "DISABLE_COMPILATION_CACHE": ("10.0", ""),
        "DISABLE_TIMING_CACHE": ("8.6", ""),
        "DISTRIBUTIVE_INDEPENDENCE": ("10.12", ""),
        "EDITABLE_TIMING_CACHE": ("10.8", ""),
        "ENABLE_TACTIC_HEURISTIC": ("8.6", "10.0"),
        "ERROR_ON_TIMING_CACHE_MISS": ("10.0", ""),
        "EXCLUDE_LEAN_RUNTIME": ("8.6", ""),
        "FP16": ("8.6", "11.0"),
        "FP4": ("10.8", "11.0"),
        "FP8": ("8.6", "11.0"),
        "GPU_FALLBACK": ("8.6", ""),
        "INT4": ("10.1", "11.0"),
        "INT8": ("8.6", "11.0"),
        "MONITOR_MEMORY": ("10.6", ""),
        "OBEY_PRECISION_CONSTRAINTS": ("8.6", "11.0"),
        "PREFER_PRECISION_CONSTRAINTS": ("8.6", "11.0"),
        "REFIT": ("8.6", ""),
        "REFIT_IDENTICAL": ("10.0", ""),
        "REFIT_INDIVIDUAL": ("10.2", ""),
        "REJECT_EMPTY_ALGORITHMS": ("8.6", "11.0"),
        "SAFETY_SCOPE": ("8.6", ""),
        "SPARSE_WEIGHTS": ("8.6", ""),
        "STRICT_NANS": ("10.6", ""),
        "STRICT_TYPES": ("8.6", "10.0"),
        "STRIP_PLAN": ("10.0", ""),
        "TF32": ("8.6", ""),
        "VERSION_COMPATIBLE": ("8.6", ""),
        "WEIGHTLESS": ("10.0", "11.0"),
        "WEIGHT_STREAMING": ("10.0", ""),
    },
    "DataType": {
        "BF16": ("10.0", ""),
        "BOOL": ("8.6", ""),
        "FLOAT": ("8.6", ""),
        "FP4": ("10.8", ""),
        "FP8": ("8.6", ""),
        "HALF": ("8.6", ""),
        "INT32": ("8.6", ""),
        "INT64": ("10.0", ""),
        "INT8": ("8.6", ""),
        "UINT8": ("8.6", ""),
    },
    "HardwareCompatibilityLevel": {
        "AMPERE_PLUS": ("8.6", ""),
        "NONE": ("8.6", ""),
        "SAME_COMPUTE_CAPABILITY": ("10.9", ""),
    },
    "IAttention": {
        "decomposable": ("10.14", ""),
    },
    "IBuilderConfig": {
        "DLA_core": ("8.6", ""),
        "algorithm_selector": ("8.6", "11.0"),
        "all_build_routes": ("11.1", ""),
        "avg_timing_iterations": ("8.6", ""),
        "build_route": ("11.1", ""),
        "builder_optimization_level": ("8.6", ""),
        "default_device_type": ("8.6", ""),
        "engine_capability": ("8.6", ""),
        "flags": ("8.6", ""),
        "hardware_compatibility_level": ("8.6", ""),
        "int8_calibrator": ("8.6", "11.0"),
        "l2_limit_for_tiling": ("10.8", ""),
        "max_aux_streams": ("8.6", ""),
        "max_num_tactics": ("10.4", ""),
        "max_workspace_size": ("8.6", "10.0"),
        "min_timing_iterations": ("8.6", "10.0"),
        "num_optimization_profiles": ("8.6", ""),
        "plugins_to_serialize": ("8.6", ""),
        "profile_stream": ("8.6", ""),
        "profiling_verbosity": ("8.6", ""),
        "progress_monitor": ("10.0", ""),
        "quantization_flags": ("8.6", "11.0"),
        "remote_auto_tuning_config": ("10.13", ""),
        "runtime_platform": ("10.2", ""),
        "set_device_type": ("8.6", ""),
        "tiling_optimization_level": ("10.8", ""),
    },
    "ILayer": {
        "precision": ("8.6", "11.0"),
        "set_output_type": ("8.6", "11.0"),
    },
    "INetworkDefinition": {
        "mark_debug": ("10.0", ""),
        "mark_unfused_tensors_as_debug_tensors": ("10.12", ""),
    },
    "ITensor": {
        "allowed_formats": ("8.6", ""),
    },
    "MemoryPoolType": {
        "DLA_GLOBAL_DRAM": ("8.6", ""),
        "DLA_LOCAL_DRAM": ("8.6", ""),
        "DLA_MANAGED_SRAM": ("8.6", ""),
        "TACTIC_DRAM": ("8.6", ""),
        "TACTIC_SHARED_MEMORY": ("10.0", ""),
        "WORKSPACE": ("8.6", ""),
    },
    "NetworkDefinitionCreationFlag": {
        "STRONGLY_TYPED": ("10.0", ""),
    },
    "OnnxParser": {
        "get_used_vc_plugin_libraries": ("8.6", ""),
    },
    "OnnxParserFlag": {
        "ADJUST_FOR_DLA": ("10.16", ""),
        "ENABLE_PLUGIN_OVERRIDE": ("10.15", ""),
        "ENABLE_UINT8_AND_ASYMMETRIC_QUANTIZATION_DLA": ("10.11", ""),
        "NATIVE_INSTANCENORM": ("8.6", ""),
        "REPORT_CAPABILITY_DLA": ("10.15", ""),
    },
    "PreviewFeature": {
        "ALIASED_PLUGIN_IO_10_03": ("10.3", ""),
        "DISABLE_EXTERNAL_TACTIC_SOURCES_FOR_CORE_0805": ("8.6", "10.0"),
        "FASTER_DYNAMIC_SHAPES_0805": ("8.6", "10.0"),
        "MULTIDEVICE_RUNTIME_10_16": ("10.16", "11.0"),
        "PROFILE_SHARING_0806": ("8.6", "11.0"),
        "RUNTIME_ACTIVATION_RESIZE_10_10": ("10.10", ""),
    },
    "ProfilingVerbosity": {
        "DEFAULT": ("8.6", "10.0"),
        "DETAILED": ("8.6", ""),
        "LAYER_NAMES_ONLY": ("8.6", ""),
        "NONE": ("8.6", ""),
        "VERBOSE": ("8.6", "10.0"),
    },
    "RuntimePlatform": {
        "SAME_AS_BUILD": ("10.2", ""),
        "WINDOWS_AMD64": ("10.2", ""),
    },
    "TacticSource": {
        "CUBLAS": ("8.6", "11.0"),
        "CUBLAS_LT": ("8.6", "11.0"),
        "CUDNN": ("8.6", "11.0"),
        "EDGE_MASK_CONVOLUTIONS": ("8.6", ""),
        "JIT_CONVOLUTIONS": ("8.6", ""),
    },
    "TilingOptimizationLevel": {
        "FAST": ("10.8", ""),
        "FULL": ("10.8", ""),
        "MODERATE": ("10.8", ""),
        "NONE": ("10.8", ""),
    },
}
