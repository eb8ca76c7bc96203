"""One variant's chain: which actions turn its model into a proven, measured artifact.

::

    export ─ simplify ─ canonicalize ─ lower(precision) ─ build ─ audit ─ benchmark
       │                     │              │               │
    reference ────────────  run  ───────── run ─────────── run   → judge, judge, judge

Every artifact is held against the PyTorch model, never against its own predecessor.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.config.schema import ArrayData, Config, Data, ImageData
from orchestrator.errors import ConfigError
from orchestrator.plan.graph import File, Gate, Graph, Ref, Step, Variant
from orchestrator.plan.inputs import Files, checkpoint_params, dims_of

PLAIN_RUN = {"backend": "onnxruntime", "device": "cpu", "optimization_level": "none"}


def add_variant(graph: Graph, variant: Variant, files: Files) -> None:
    """Add the actions of *variant* to *graph* and its chain to *variant*.

    Raises:
        ConfigError: a declared file is missing, or the profile contradicts the model.
    """
    _Chain(graph, variant, files).build()
    graph.variants.append(variant)


class _Chain:
    def __init__(self, graph: Graph, variant: Variant, files: Files) -> None:
        self.graph = graph
        self.variant = variant
        self.config: Config = variant.config
        self.files = files
        self.dims = dims_of(self.config.model, self.config.profile)
        self.inputs = {
            name: entry.model_dump(mode="json") for name, entry in self.config.model.inputs.items()
        }
        self.target = self.config.target.model_dump(mode="json")

    def build(self) -> None:
        config, precision = self.config, self.config.precision.name
        samples = self._samples("samples", "compare", config.model.samples, "model.samples")
        source = self._source(self._traced(samples))
        reference = self._reference("reference", samples, source)
        onnx = self._canonical(source)
        self.variant.artifacts["onnx"] = onnx
        self._held_against(reference, "onnx", onnx, samples, PLAIN_RUN, "fp32")
        lowered = self._lower(onnx)
        if lowered != onnx:
            self.variant.artifacts["lowered"] = lowered
            self._held_against(reference, "lowered", lowered, samples, PLAIN_RUN, precision)
        session = self._add("build", "build", {"target": self.target}, {"onnx": lowered}, "session")
        self.variant.artifacts["session"] = session
        # As it will be served: what is verified is what is measured.
        self._held_against(reference, "session", session, samples, self.target, precision)
        self._score(source, session, precision)
        self._audit(session, samples)
        self.variant.artifacts["samples"] = samples
        self.variant.artifacts["reference"] = reference
        if config.benchmark.enabled:
            protocol = config.benchmark.model_dump(mode="json", exclude={"enabled", "fresh"})
            params = {"target": self.target, "benchmark": protocol}
            inputs = {"model": session, "samples": samples}
            measured = self._add("benchmark", "benchmark", params, inputs)
            if config.benchmark.fresh:
                self.graph.fresh.add(measured.action)

    def _samples(self, role: str, purpose: str, data: Data, where: str, count: int = 0) -> Ref:
        fields = data.model_dump(mode="json")
        declared: dict[str, File] = {}
        if isinstance(data, ArrayData):
            declared = self._array_files(data, where)
            fields.pop("path")
            if data.kind == "npy":
                # Names only: the files' digests are in the key, their paths are not.
                fields["arrays"] = dict.fromkeys(sorted(fields["arrays"]), "")
                fields["labels"] = None if data.labels is None else ""
        elif isinstance(data, ImageData):
            declared = {"data": self.files.get(fields.pop("path"), f"{where}.path")}
        params = {
            "data": fields,
            "inputs": self.inputs,
            "order": list(self.inputs),
            "dims": self.dims,
            "purpose": purpose,
            "batches": self.config.model.batches if purpose == "compare" else 0,
            "count": count,
        }
        return self._add(role, "samples", params, {}, "samples", files=declared)

    def _traced(self, samples: Ref) -> Ref:
        """What the export is traced on: of declared shapes, so a profile needs no new export."""
        declared = dims_of(self.config.model)
        if self.config.model.onnx is not None or declared == self.dims:
            return samples
        narrowed, self.dims = self.dims, declared
        traced = self._samples(
            "trace samples", "compare", self.config.model.samples, "model.samples"
        )
        self.dims = narrowed
        return traced

    def _array_files(self, data: ArrayData, where: str) -> dict[str, File]:
        if data.kind == "npz":
            if data.path is None:
                raise ConfigError("kind=npz needs a file", where=f"{where}.path")
            return {"data": self.files.get(data.path, f"{where}.path")}
        found = {
            f"data.{name}": self.files.get(path, f"{where}.arrays.{name}")
            for name, path in data.arrays.items()
        }
        if data.labels is not None:
            found["labels"] = self.files.get(data.labels, f"{where}.labels")
        return found

    def _source(self, samples: Ref) -> Ref:
        """The ONNX file as exported, or as it came."""
        model = self.config.model
        if model.onnx is not None:
            params = {
                "inputs": self.inputs,
                "order": list(self.inputs),
                "outputs": model.outputs,
                "dims": self._ranges(),
            }
            files = {"onnx": self.files.get(model.onnx, "model.onnx")}
            return self._add("import", "import_onnx", params, {}, "onnx", files=files)
        params = {
            **self._module_params(),
            "dims": self._ranges(),
            "exporter": self._exporter(),
        }
        exported = self._add(
            "export", "export", params, {"samples": samples}, "onnx", files=self._module_files()
        )
        self.variant.artifacts["provenance"] = Ref(action=exported.action, output="provenance")
        return exported

    def _exporter(self) -> dict[str, Any]:
        exporter = self.config.exporter
        unused = {"optimize"} if exporter.name == "torchscript" else set()
        return exporter.model_dump(mode="json", exclude=unused)

    def _ranges(self) -> dict[str, list[int]]:
        # The declared ranges, not the profile's: a narrower profile needs no new export.
        return {name: [dim.min, dim.max] for name, dim in self.config.model.dims.items()}

    def _module_params(self) -> dict[str, Any]:
        model = self.config.model
        return {
            "factory": model.factory,
            "args": model.args,
            "checkpoint": checkpoint_params(model),
            "inputs": self.inputs,
            # A mapping has no order in a key, but inputs that are fed by position have one.
            "order": list(self.inputs),
            "outputs": model.outputs,
        }

    def _module_files(self) -> dict[str, File]:
        model = self.config.model
        found = {
            f"file.{number}": self.files.get(path, f"model.files[{number}]")
            for number, path in enumerate(model.files)
        }
        if model.checkpoint is not None:
            found["checkpoint"] = self.files.get(model.checkpoint.path, "model.checkpoint.path")
        return found

    def _reference(self, role: str, samples: Ref, source: Ref) -> Ref:
        if self.config.model.onnx is not None:
            return self._run(role, source, samples, PLAIN_RUN)
        return self._add(
            role,
            "reference",
            self._module_params(),
            {"samples": samples},
            "outputs",
            files=self._module_files(),
        )

    def _canonical(self, onnx: Ref) -> Ref:
        simplifier = self.config.simplifier
        if simplifier.name != "none":
            params = {"simplifier": simplifier.model_dump(mode="json")}
            onnx = self._add("simplify", "simplify", params, {"onnx": onnx}, "onnx")
        return self._add("canonicalize", "canonicalize", {}, {"onnx": onnx}, "onnx")

    def _lower(self, onnx: Ref) -> Ref:
        precision = self.config.precision.model_dump(mode="json")
        match self.config.precision.name:
            case "fp32":
                return onnx
            case "fp16":
                for unused in ("per_channel", "op_types"):
                    precision.pop(unused)
                return self._add("cast", "cast", {"precision": precision}, {"onnx": onnx}, "onnx")
            case "int8":
                model, calibration = self.config.model, self.config.calibration
                data = self._samples(
                    "calibration data",
                    "calibration",
                    model.calibration or model.samples,
                    "model.calibration" if model.calibration else "model.samples",
                    calibration.count,
                )
                params = {"precision": precision, "calibration": calibration_params(calibration)}
                inputs = {"onnx": onnx, "samples": data}
                return self._add("quantize", "quantize", params, inputs, "onnx")

    def _run(self, role: str, model: Ref, samples: Ref, target: Mapping[str, Any]) -> Ref:
        params = {"target": dict(target), "outputs": self.config.model.outputs}
        return self._add(role, "run", params, {"model": model, "samples": samples}, "outputs")

    def _held_against(
        self,
        reference: Ref,
        name: str,
        model: Ref,
        samples: Ref,
        target: Mapping[str, Any],
        precision: str,
    ) -> None:
        outputs = self._run(f"run {name}", model, samples, target)
        judged = self._add(
            f"judge {name}",
            "judge",
            {"outputs": self.config.model.outputs},
            {"reference": reference, "outputs": outputs},
        )
        self._gate(name, "judge", judged, precision)

    def _score(self, source: Ref, session: Ref, precision: str) -> None:
        task = self.config.model.task
        if task is None:
            return
        where = "model.task.data" if task.data else "model.samples"
        data = task.data or self.config.model.samples
        samples = self._samples("task data", "task", data, where, task.count)
        inputs = {
            "reference": self._reference("reference task", samples, source),
            "outputs": self._run("run task", session, samples, self.target),
            "samples": samples,
        }
        params = {"metric": task.metric, "output": task.output or self.config.model.outputs[0]}
        self._gate("task", "score", self._add("score", "score", params, inputs), precision)

    def _audit(self, session: Ref, samples: Ref) -> None:
        precision = self.config.precision
        fields = {"name", "keep_op_types", "keep_nodes", "op_types"}
        claim = precision.model_dump(mode="json", include=fields)
        params = {"target": self.target, "precision": claim}
        audited = self._add("audit", "audit", params, {"model": session, "samples": samples})
        self._gate("audit", "audit", audited, precision.name)

    def _gate(self, name: str, check: Any, judged: Ref, precision: str) -> None:
        self.variant.gates.append(
            Gate(name=name, check=check, action=judged.action, precision=precision)
        )

    def _add(
        self,
        role: str,
        stage: str,
        params: Mapping[str, Any],
        inputs: Mapping[str, Ref],
        output: str = "",
        *,
        files: Mapping[str, File] | None = None,
    ) -> Ref:
        salt = self.config.cache.salt
        action = self.graph.add(stage, params, inputs=inputs, files=files, salt=salt)
        self.variant.steps.append(
            Step(role=role, stage=stage, action=action, gates=len(self.variant.gates))
        )
        return Ref(action=action, output=output)


def calibration_params(calibration: Any) -> dict[str, Any]:
    """Return the calibration settings that the chosen method uses, and no others."""
    fields: dict[str, Any] = calibration.model_dump(mode="json")
    if calibration.method == "minmax":
        fields.pop("bins")
    if calibration.method != "percentile":
        fields.pop("percentile")
    return fields
