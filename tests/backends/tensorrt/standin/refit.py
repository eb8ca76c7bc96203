"""``Refitter`` by layer and role (8.6), and by ONNX file (10.0)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from orchestrator.graphs.files import load_file
from tests.backends.tensorrt.standin.callbacks import ILogger, say
from tests.backends.tensorrt.standin.engine import ICudaEngine, with_weights
from tests.backends.tensorrt.standin.enums import WeightsRole
from tests.backends.tensorrt.standin.names import has
from tests.backends.tensorrt.standin.network import refittable
from tests.backends.tensorrt.standin.settings import count

Array = np.ndarray[Any, Any]


class Weights:
    """Values for one role of a layer."""

    def __init__(self, array: Array) -> None:
        self.array = array


class Refitter:
    """Collects weights and puts them into an engine."""

    def __init__(self, engine: ICudaEngine, logger: ILogger) -> None:
        self._engine, self._logger = engine, logger
        graph = onnx.ModelProto.FromString(engine.plan.model).graph
        self.initializers = {(layer, role): name for layer, role, name in refittable(graph)}
        self._sizes = {tensor.name: int(np.prod(tensor.dims)) for tensor in graph.initializer}
        self.given: dict[str, Array] = {}

    def get_all(self) -> tuple[list[str], list[Any]]:
        """Return layer names and roles of all weights."""
        return self._split(list(self.initializers))

    def get_all_weights(self) -> list[str]:
        """Return the names of all weights: a stand-in before 10.0 knows its layers only."""
        return list(self.initializers.values()) if has("OnnxParserRefitter") else []

    def get_missing(self) -> tuple[list[str], list[Any]]:
        """Return those that were not given."""
        missing = [key for key, name in self.initializers.items() if name not in self.given]
        return self._split(missing)

    def _split(self, keys: list[tuple[str, str]]) -> tuple[list[str], list[Any]]:
        return [layer for layer, _ in keys], [getattr(WeightsRole, role) for _, role in keys]

    def set_weights(self, layer: str, role: Any, weights: Weights) -> bool:
        return self.give(self.initializers[layer, role.name], weights.array)

    def give(self, name: str, array: Array | None) -> bool:
        """Take the values of an initializer; False when there are none, or not as many."""
        if array is None or array.size != self._sizes[name]:
            say(self._logger, f"{name}: count of weights mismatch, need {self._sizes[name]}")
            return False
        self.given[name] = array
        return True

    def refit_cuda_engine(self) -> bool:
        count("refit")
        plan = self._engine.plan
        self._engine.plan = replace(plan, model=with_weights(plan.model, self.given))
        return True


class OnnxParserRefitter:
    """Takes all weights from an ONNX file; what is wrong is in the log."""

    num_errors = 0

    def __init__(self, refitter: Refitter, logger: ILogger) -> None:
        self._refitter = refitter

    def refit_from_file(self, path: str) -> bool:
        found = {tensor.name: tensor for tensor in load_file(Path(path)).graph.initializer}
        wanted = self._refitter.initializers.values()
        return all(
            self._refitter.give(name, numpy_helper.to_array(found[name]) if name in found else None)
            for name in wanted
        )
