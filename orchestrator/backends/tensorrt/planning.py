"""Before anything runs: what the toolchain has, and how a variant becomes an engine there.

Everything that a version or device cannot do is refused here, in the words of the configuration.
What decides the engine goes into the action's parameters, and so into its key: the identity of
TensorRT, CUDA and device as the toolchain reports it (``expect``), options, precision, profiles.
How the toolchain is reached does not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from orchestrator.backends.base import Json, Site, Way
from orchestrator.backends.tensorrt import probe as probing
from orchestrator.backends.tensorrt.options import carries_code, check, request, tf32
from orchestrator.backends.tensorrt.profiles import ProfileShapes, check_volumes, make_profiles
from orchestrator.backends.tensorrt.toolchain import Toolchain
from orchestrator.backends.tensorrt.trtexec import trtexec_line
from orchestrator.backends.tensorrt.versions import (
    Calibrator,
    Lowering,
    Version,
    lowering,
    parse_version,
)
from orchestrator.config.schema import Config, TensorRTTarget
from orchestrator.errors import ConfigError, PlanError, nearest
from orchestrator.plan.graph import File
from orchestrator.plan.inputs import profiles_of
from orchestrator.store.index import Index

_CALIBRATORS: Final[Mapping[str, Calibrator]] = {
    "tensorrt_entropy": "entropy2",
    "tensorrt_minmax": "minmax",
}
_REFITTABLE: Final = ("fp32", "tf32", "fp16", "bf16")


def way(config: Config, site: Site) -> Way:
    """Return how the variant *config* becomes an engine.

    Raises:
        ConfigError: the configuration contradicts itself, or a file is missing.
        PlanError: the toolchain cannot be reached, or its TensorRT or device cannot serve it.
    """
    target = config.target
    assert isinstance(target, TensorRTTarget)
    toolchain = _toolchain(config)
    if toolchain not in site.found:
        site.found[toolchain] = probing.probe(toolchain, site.index)
    probed: probing.Probed = site.found[toolchain]
    version = parse_version(str(probed.seen["tensorrt"]))
    notes: list[str] = []
    refit = _refits(config, target, notes)
    options = target.model_copy(update={"refit": "refit"}) if refit else target
    lowered = _lowering(config, version, probed.expectation, toolchain.name)
    check(options, version, toolchain.name, lowering=lowered, plugins=target.plugins)
    if target.runtime_platform not in (None, "same_as_build"):
        raise ConfigError(
            f"an engine for {target.runtime_platform} cannot be run, and so not judged, here",
            where="target.runtime_platform",
            hint="leave it out, and build on that system",
        )
    _warn_of_opset(config, lowered, version, notes)
    if target.strip_weights and not refit:
        raise ConfigError(
            "a plan without weights computes nothing until it is refitted",
            where="target.strip_weights",
            hint=f"add target.reuse=true, for a precision of {', '.join(_REFITTABLE)}",
        )
    profiles = _profiles(config, version, toolchain.name)
    plugins = {
        f"plugin.{number}": site.files.get(path, f"target.plugins.{number}")
        for number, path in enumerate(target.plugins)
    }
    keep = (config.precision.keep_nodes, config.precision.keep_op_types)
    build: Json = {
        "backend": "tensorrt",
        "expect": probed.expectation,
        "options": request(options),
        "word": config.precision.name,
        "precision": lowered.request(*keep),
        "profiles": profiles,
        "inputs": list(config.model.inputs),
        "outputs": list(config.model.outputs),
    }
    if lowered.calibrator is not None:
        build["calibrator"] = lowered.calibrator
    run: Json = {
        "backend": "tensorrt",
        "expect": probed.expectation,
        "tf32": tf32(options, lowered),
        "host_code": carries_code(build["options"]),
    }
    if target.layer_precisions:
        run["layer_precisions"] = dict(target.layer_precisions)
    return Way(
        form=lowered.onnx,
        build=build,
        run=run,
        artifact="engine",
        files=plugins,
        calibrated=lowered.calibrator is not None,
        reach={**toolchain.as_json(), "timing_cache": target.timing_cache},
        devices=probed.devices,
        command=_command(options, profiles, lowered, version, config, plugins),
        refit=refit,
        notes=notes,
    )


def forget(reach: Mapping[str, Any], index: Index) -> None:
    """Forget what a toolchain said of itself, because its worker saw something else."""
    probing.forget(Toolchain.from_json(reach), index)


def _toolchain(config: Config) -> Toolchain:
    group, target = config.toolchain, config.target
    return Toolchain(
        name=group.name,
        command=None if group.command is None else tuple(group.command),
        transport=group.transport,
        installation=group.installation,
        max_age_s=group.max_age_s,
        device=int(target.device),
    )


def _refits(config: Config, target: TensorRTTarget, notes: list[str]) -> bool:
    if not target.reuse:
        return False
    if config.precision.name not in _REFITTABLE:
        notes.append(
            f"target.reuse: the scales of precision={config.precision.name} cannot be refitted, so "
            "the engine is built"
        )
        return False
    if target.refit in ("identical", "individual"):
        raise ConfigError(
            f"target.refit={target.refit} cannot take other weights everywhere",
            where="target.reuse",
            hint="leave target.refit out: target.reuse=true sets it",
        )
    return True


def _profiles(config: Config, version: Version, toolchain: str) -> list[ProfileShapes]:
    inputs = {name: entry.shape for name, entry in config.model.inputs.items()}
    ranges = profiles_of(config.model, config.profile)
    check_volumes(inputs, ranges, version, toolchain)
    values = {name: one.model_dump(mode="json") for name, one in config.profile.values.items()}
    for name in values:
        if name not in inputs:
            raise ConfigError(
                f"the model '{config.model.name}' has no input '{name}'",
                where=f"profile.values.{name}",
                hint=nearest(name, inputs) or f"inputs: {', '.join(inputs)}",
            )
    made = make_profiles(inputs, ranges) or ([{}] if values else [])
    return [{**shapes, **values} for shapes in made]


def _lowering(config: Config, version: Version, expect: Json, toolchain: str) -> Lowering:
    precision = config.precision
    calibrator = _CALIBRATORS.get(config.calibration.method) if precision.name == "int8" else None
    capability = str((expect.get("device") or {}).get("compute_capability") or "")
    lowered = lowering(
        precision.name,
        version,
        calibrator,
        kept=bool(precision.keep_nodes or precision.keep_op_types),
        compute_capability=_pair(capability),
        toolchain=toolchain,
    )
    opset = config.exporter.opset
    if config.model.onnx is None and lowered.least_opset and opset < lowered.least_opset:
        raise ConfigError(
            f"precision={precision.name} for TensorRT {version} needs ONNX types of opset "
            f">= {lowered.least_opset}; this one is {opset}",
            where="exporter.opset",
            hint=f"use exporter.opset={lowered.least_opset}",
        )
    method = config.calibration.method
    if lowered.onnx == "fp8 qdq" and method not in ("minmax", "percentile"):
        raise ConfigError(
            f"calibration={method} looks for the range that 8-bit integers keep best",
            where="calibration",
            hint="fp8 takes calibration=minmax or percentile",
        )
    if not precision.keep_io and lowered.onnx == "fp32":
        raise PlanError(
            f"precision={precision.name} is a builder flag of TensorRT {version}: inputs and "
            "outputs keep the model's types",
            where="precision.keep_io",
            hint="leave it true, or set target.input_formats and target.output_formats",
        )
    return lowered


def _warn_of_opset(config: Config, lowered: Lowering, version: Version, notes: list[str]) -> None:
    """Note an opset that the version's parser does not document; it may take it all the same."""
    known, opset = lowered.greatest_opset, config.exporter.opset
    if config.model.onnx is None and known is not None and opset > known:
        notes.append(
            f"exporter.opset={opset}: the ONNX parser of TensorRT {version} documents up to {known}"
        )


def _pair(capability: str) -> tuple[int, int] | None:
    major, _, minor = capability.partition(".")
    return (int(major), int(minor)) if major.isdigit() and minor.isdigit() else None


def _command(
    options: TensorRTTarget,
    profiles: Sequence[ProfileShapes],
    lowered: Lowering,
    version: Version,
    config: Config,
    plugins: Mapping[str, File],
) -> str:
    return trtexec_line(
        options,
        profiles,
        lowered,
        version,
        onnx="model.onnx",
        plan="engine.plan",
        keep_nodes=config.precision.keep_nodes,
        keep_op_types=config.precision.keep_op_types,
        plugins=[file.path.name for file in plugins.values()],
        inputs={name: entry.dtype for name, entry in config.model.inputs.items()},
    )
