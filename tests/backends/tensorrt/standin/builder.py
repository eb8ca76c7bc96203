"""``Builder``, its configuration and profiles, calibration and the timing cache."""

from __future__ import annotations

import ctypes
import json
import os
import signal
from collections.abc import Sequence
from typing import Any

import numpy as np

from tests.backends.tensorrt.standin import enums
from tests.backends.tensorrt.standin.callbacks import ILogger, say
from tests.backends.tensorrt.standin.cuda_runtime import room
from tests.backends.tensorrt.standin.kernels import Kernels
from tests.backends.tensorrt.standin.names import has, members, pruned
from tests.backends.tensorrt.standin.network import INetworkDefinition
from tests.backends.tensorrt.standin.plan import Plan
from tests.backends.tensorrt.standin.settings import VERSION, count, fault, linger

Bounds = tuple[Sequence[int], Sequence[int], Sequence[int]]


class OptimizationProfile:
    """``IOptimizationProfile``: min, opt and max of each input."""

    def __init__(self) -> None:
        self.shapes: dict[str, Bounds] = {}

    def set_shape(self, name: str, low: Any, best: Any, high: Any) -> None:
        self.shapes[name] = (tuple(low), tuple(best), tuple(high))


class TimingCache:
    """``ITimingCache``: the names of the layers that were timed."""

    def __init__(self, layers: Sequence[str] = ()) -> None:
        self.layers = set(layers)

    def combine(self, other: TimingCache, ignore_mismatch: bool) -> bool:
        self.layers |= other.layers
        return True

    def serialize(self) -> bytes:
        return json.dumps({"tensorrt": VERSION, "layers": sorted(self.layers)}).encode()


@pruned
class IBuilderConfig:
    """A builder's configuration: keeps what it is given."""

    def __init__(self) -> None:
        self.flags_set = {"TF32"}
        self.pools: dict[str, int] = {}
        self.previews: dict[str, bool] = {}
        self.sources = (1 << len(enums.TacticSource)) - 1
        self.profiles: list[OptimizationProfile] = []
        self.cache: TimingCache | None = None

    def set_flag(self, flag: Any) -> None:
        self.flags_set.add(flag.name)

    def clear_flag(self, flag: Any) -> None:
        self.flags_set.discard(flag.name)

    def set_memory_pool_limit(self, pool: Any, size: int) -> None:
        self.pools[pool.name] = size

    def set_preview_feature(self, feature: Any, on: bool) -> None:
        self.previews[feature.name] = on

    def get_tactic_sources(self) -> int:
        return self.sources

    def set_tactic_sources(self, sources: int) -> bool:
        self.sources = sources
        return True

    def add_optimization_profile(self, profile: OptimizationProfile) -> int:
        self.profiles.append(profile)
        return len(self.profiles) - 1

    def set_calibration_profile(self, profile: OptimizationProfile) -> bool:
        return True

    def create_timing_cache(self, data: bytes) -> TimingCache | None:
        found = json.loads(data) if data else {"tensorrt": VERSION, "layers": []}
        return TimingCache(found["layers"]) if found["tensorrt"] == VERSION else None

    def set_timing_cache(self, cache: TimingCache, ignore_mismatch: bool) -> bool:
        self.cache = cache
        return True

    def get_timing_cache(self) -> TimingCache | None:
        return self.cache


for _name in members("IBuilderConfig"):  # its properties; methods are above
    if not hasattr(IBuilderConfig, _name):
        setattr(IBuilderConfig, _name, 0)


class Builder:
    """Makes networks, configurations, profiles and plans."""

    def __init__(self, logger: ILogger) -> None:
        self._logger = logger

    def create_network(self, flags: int) -> INetworkDefinition:
        return INetworkDefinition(flags)

    def create_builder_config(self) -> IBuilderConfig:
        return IBuilderConfig()

    def create_optimization_profile(self) -> OptimizationProfile:
        return OptimizationProfile()

    def build_serialized_network(
        self, network: INetworkDefinition, config: IBuilderConfig
    ) -> bytes | None:
        count("build")
        linger()
        if fault("crash_in_build") is not None:
            os.kill(os.getpid(), signal.SIGSEGV)
        calibrated = "INT8" in config.flags_set and calibrate(network, config)
        kernels = chosen_kernels(network, config, calibrated=calibrated)
        problems = broken(network) or kernels.problems()
        for text in problems:
            say(self._logger, text)
        if problems:
            return None
        layers = kernels.layers()
        tell(config, layers)
        count("built")
        return Plan(settings(network, config, layers), network.model.SerializeToString()).pack()


def broken(network: INetworkDefinition) -> list[str]:
    """Return the errors of a build that was told to fail, in 8.6's words."""
    if fault("oom") is not None:
        asked = "Requested amount of GPU memory (1099511627776 bytes) could not be allocated."
        return ["Error Code 1: Cuda Runtime (out of memory)", asked]
    if fault("none_built") is not None:
        where = f"Could not find any implementation for node {network.layers[0].name}."
        return [f"Error Code 10: Internal Error ({where})"]
    return []


def chosen_kernels(
    network: INetworkDefinition, config: IBuilderConfig, *, calibrated: bool
) -> Kernels:
    """Return the kernels for a network under the flags of its configuration."""
    typed = not has("BuilderFlag.FP16")  # 11: every network is typed
    if has("NetworkDefinitionCreationFlag.STRONGLY_TYPED"):
        bit = int(enums.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        typed = typed or bool(network.flags >> bit & 1)
    held = {layer.name for layer in network.layers if layer.precision is not None}
    obeys = "OBEY_PRECISION_CONSTRAINTS" in config.flags_set
    return Kernels(
        network.model,
        config.flags_set,
        typed=typed,
        held=held if obeys else (),
        calibrated=calibrated,
    )


def tell(config: IBuilderConfig, layers: Sequence[dict[str, Any]]) -> None:
    """Report progress, and keep what was timed."""
    monitor: Any = getattr(config, "progress_monitor", None)
    if monitor:
        monitor.phase_start("Building Engine", None, len(layers))
        for at, _ in enumerate(layers):
            monitor.step_complete("Building Engine", at)
        monitor.phase_finish("Building Engine")
    if config.cache is not None:
        config.cache.layers |= {layer["Name"] for layer in layers}


def settings(
    network: INetworkDefinition, config: IBuilderConfig, layers: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Return what a plan holds beside its model."""
    return {
        "ports": [
            {
                "name": tensor.name,
                "input": tensor in network.inputs,
                "dtype": tensor.dtype.name,
                "shape": tensor.shape,
            }
            for tensor in (*network.inputs, *network.outputs)
        ],
        "profiles": [profile.shapes for profile in config.profiles],
        "refittable": any(flag.startswith("REFIT") for flag in config.flags_set),
        "layers": layers,
        "builder": {
            "flags": sorted(config.flags_set),
            "pools": config.pools,
            "previews": config.previews,
        },
    }


def calibrate(network: INetworkDefinition, config: IBuilderConfig) -> bool:
    """Let the calibrator give its batches, or its table; return whether there is one.

    The table holds the greatest absolute value of the inputs, read from the addresses given.
    """
    calibrator: Any = getattr(config, "int8_calibrator", None)
    if not calibrator:
        return False
    if calibrator.read_calibration_cache():
        return True
    ranges = dict.fromkeys((tensor.name for tensor in network.inputs), 0.0)
    while addresses := calibrator.get_batch(list(ranges)):
        for tensor, address in zip(network.inputs, addresses, strict=True):
            raw = (ctypes.c_uint8 * room(address)).from_address(address)
            if tensor.dtype.name == "FLOAT":
                values = np.ctypeslib.as_array(raw).view(np.float32)
                ranges[tensor.name] = max(ranges[tensor.name], float(np.abs(values).max()))
    lines = [f"TRT-{VERSION}-{calibrator.KIND}"]
    lines += [
        f"{name}: {np.float32(value).tobytes()[::-1].hex()}" for name, value in ranges.items()
    ]
    calibrator.write_calibration_cache("\n".join(lines).encode())
    return True
