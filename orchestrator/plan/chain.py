"""One variant's chain: which actions turn its model into a proven, measured artifact.

::

    export ─ simplify ─ canonicalize ─ lower(precision) ─ build ─ audit ─ benchmark
       │                     │              │               │
    reference ────────────  run  ───────── run ─────────── run   → judge, judge, judge

Every artifact is held against the PyTorch model, never against its own predecessor. How the
precision is lowered, and what is built, the target's backend says (:class:`Way`). An engine whose
weights are refitted is built for the graph's skeleton, whatever the weights, and then refitted::

    lower ─ skeleton ─ build ─ refit ─ audit ─ benchmark
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from orchestrator.backends.base import Site, backend
from orchestrator.backends.beside import available
from orchestrator.config.data import ArrayData, Data, ImageData
from orchestrator.config.schema import Config
from orchestrator.errors import ConfigError
from orchestrator.plan.graph import File, Gate, Graph, Ref, Step, Variant
from orchestrator.plan.inputs import Files, checkpoint_params, dims_of, profiles_of
from orchestrator.stages.base import Repeats
from orchestrator.stages.catalogue import stage as find_stage

PLAIN_RUN = {"backend": "onnxruntime", "device": "cpu", "optimization_level": "none"}
#: Fields of the benchmark's protocol that mean nothing on a processor.
_FOR_GPUS = ("cuda_graph", "transfers", "shapes", "beside")


def add_variant(graph: Graph, variant: Variant, site: Site) -> None:
    """Add the actions of *variant* to *graph* and its chain to *variant*.

    Raises:
        ConfigError: a declared file is missing, the profile contradicts the model, or the target
            cannot serve what was asked.
        PlanError: the target cannot be reached.
    """
    _Chain(graph, variant, site).build()
    graph.variants.append(variant)


class _Chain:
    def __init__(self, graph: Graph, variant: Variant, site: Site) -> None:
        self.graph = graph
        self.variant = variant
        self.config: Config = variant.config
        self.files: Files = site.files
        self.dims, *self.further = profiles_of(self.config.model, self.config.profile)
        self.inputs = {
            name: entry.model_dump(mode="json") for name, entry in self.config.model.inputs.items()
        }
        self.way = backend(self.config.target.backend).way(self.config, site)
        variant.artifact = self.way.artifact
        variant.command = self.way.command
        variant.notes += self.way.notes

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
            plain = {**PLAIN_RUN, "widen_bf16": True} if self.way.form == "bf16" else PLAIN_RUN
            self._held_against(reference, "lowered", lowered, samples, plain, precision)
        built = self._build(lowered)
        name = self.way.artifact
        self.variant.artifacts[name] = built
        # As it will be served: what is verified is what is measured.
        self._held_against(reference, name, built, samples, self.way.run, precision)
        self._score(source, built, precision)
        self._audit(built, lowered, samples)
        self.variant.artifacts["samples"] = samples
        self.variant.artifacts["reference"] = reference
        if config.benchmark.enabled:
            protocol = config.benchmark.model_dump(mode="json", exclude={"enabled", "fresh"})
            target = {**self.way.run, "uuid": self.way.device} if self.way.device else self.way.run
            params = {"target": target, "benchmark": self._measured(protocol)}
            inputs = {"model": built, "samples": samples}
            measured = [self._add("benchmark", "benchmark", params, inputs)]
            if self.way.device and config.benchmark.beside == "auto":
                measured += self._beside(onnx, lowered, samples, protocol)
            if config.benchmark.fresh:
                self.graph.fresh.update(ref.action for ref in measured)

    def _beside(self, onnx: Ref, lowered: Ref, samples: Ref, protocol: dict[str, Any]) -> list[Ref]:
        """Add measurements of what else runs the model on that GPU, where it is installed here."""
        precision = self.config.precision.name
        half = precision if precision in ("fp16", "bf16") else "fp16"
        common = {
            "device": "cuda",
            "uuid": self.way.device,
            "benchmark": self._measured(protocol),
        }
        found = []
        if self.config.model.onnx is None and available("torch"):
            same = precision if precision in ("fp32", "tf32") else half
            found.append(
                self._add(
                    "beside torch",
                    "beside",
                    {"engine": "torch", "precision": same, **common, **self._module_params()},
                    {"samples": samples, "onnx": onnx},
                    files=self._module_files(),
                    devices=self.way.devices,
                )
            )
        if available("onnxruntime"):
            typed = self.way.form in ("fp16", "bf16")
            same = half if typed else "fp32" if precision == "fp32" else "tf32"
            found.append(
                self._add(
                    "beside onnxruntime",
                    "beside",
                    {"engine": "onnxruntime", "precision": same, **common},
                    {"samples": samples, "onnx": lowered if typed else onnx},
                    devices=self.way.devices,
                )
            )
        return found

    def _measured(self, protocol: dict[str, Any]) -> dict[str, Any]:
        """Return what of the protocol the target uses; the rest changes nothing."""
        unused = ("threads", "beside") if self.way.device else _FOR_GPUS
        return {name: value for name, value in protocol.items() if name not in unused}

    def _build(self, lowered: Ref) -> Ref:
        params = {"target": self.way.build}
        inputs = {"onnx": lowered}
        unkeyed = set()
        if self.way.calibrated:
            inputs["samples"] = self._calibration_data()
        if self.way.device and (provenance := self.variant.artifacts.get("provenance")):
            inputs["provenance"] = provenance  # for messages: which module a node came from
            unkeyed.add("provenance")
        if not self.way.refit:
            return self._add("build", "build", params, inputs, "session", unkeyed=unkeyed)
        skeleton = self._add("skeleton", "skeleton", {}, {"onnx": lowered}, "skeleton")
        base = self._add(
            "build",
            "build",
            params,
            {**inputs, "skeleton": skeleton},
            "session",
            unkeyed={*unkeyed, "onnx"},
        )
        return self._add(
            "refit", "refit", params, {**inputs, "base": base}, "session", unkeyed=unkeyed
        )

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
        if purpose == "compare" and self.further:
            params["further"] = self.further
        return self._add(role, "samples", params, {}, "samples", files=declared)

    def _traced(self, samples: Ref) -> Ref:
        """What the export is traced on: of declared shapes, so a profile needs no new export."""
        declared = dims_of(self.config.model)
        if self.config.model.onnx is not None or [declared] == [self.dims, *self.further]:
            return samples
        narrowed, self.dims, self.further = (self.dims, self.further), declared, []
        traced = self._samples(
            "trace samples", "compare", self.config.model.samples, "model.samples"
        )
        self.dims, self.further = narrowed
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
        """The model in the form that the target wants for the precision."""
        precision = self.config.precision.model_dump(mode="json")
        match self.way.form:
            case "fp32":
                return onnx
            case "fp16" | "bf16":
                for unused in ("per_channel", "op_types"):
                    precision.pop(unused)
                return self._add("cast", "cast", {"precision": precision}, {"onnx": onnx}, "onnx")
            case "int8 qdq" | "fp8 qdq":
                calibration = calibration_params(self.config.calibration)
                params = {"precision": precision, "calibration": calibration}
                inputs = {"onnx": onnx, "samples": self._calibration_data()}
                return self._add("quantize", "quantize", params, inputs, "onnx")

    def _calibration_data(self) -> Ref:
        model = self.config.model
        return self._samples(
            "calibration data",
            "calibration",
            model.calibration or model.samples,
            "model.calibration" if model.calibration else "model.samples",
            self.config.calibration.count,
        )

    def _run(self, role: str, model: Ref, samples: Ref, target: Mapping[str, Any]) -> Ref:
        params = {"target": dict(target), "outputs": self.config.model.outputs}
        inputs = {"model": model, "samples": samples}
        return self._add(role, "run", params, inputs, "outputs")

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

    def _score(self, source: Ref, built: Ref, precision: str) -> None:
        task = self.config.model.task
        if task is None:
            return
        where = "model.task.data" if task.data else "model.samples"
        data = task.data or self.config.model.samples
        samples = self._samples("task data", "task", data, where, task.count)
        inputs = {
            "reference": self._reference("reference task", samples, source),
            "outputs": self._run("run task", built, samples, self.way.run),
            "samples": samples,
        }
        params = {"metric": task.metric, "output": task.output or self.config.model.outputs[0]}
        self._gate("task", "score", self._add("score", "score", params, inputs), precision)

    def _audit(self, built: Ref, lowered: Ref, samples: Ref) -> None:
        precision = self.config.precision
        fields = {"name", "keep_op_types", "keep_nodes", "op_types"}
        claim = precision.model_dump(mode="json", include=fields)
        params = {"target": self.way.run, "precision": claim}
        inputs = {"model": built, "samples": samples}
        if self.way.device:
            inputs["onnx"] = lowered
        audited = self._add("audit", "audit", params, inputs)
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
        unkeyed: Collection[str] = (),
        devices: Sequence[str] = (),
    ) -> Ref:
        runtime = params.get("target", {}).get("backend")
        reached = runtime == self.way.run["backend"]
        if reached:
            files = {**(files or {}), **self.way.files}
            devices = self.way.devices
        if find_stage(stage).repeats is Repeats.MEASUREMENT:
            devices = devices[:1]  # those of one sweep are compared
        if runtime is not None:
            params = {**params, "backend_version": backend(runtime).versions[stage]}
        action = self.graph.add(
            stage,
            params,
            inputs=inputs,
            files=files,
            salt=self.config.cache.salt,
            unkeyed=frozenset(unkeyed),
            reach=self.way.reach if reached else None,
            devices=devices,
        )
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
