"""The typed schema of every config group. Data only: composing and checking live beside it.

Field descriptions are the config reference (``docs/reference/config.md`` and the JSON Schemas for
editors are generated from them). ``KEYED`` names the groups whose values may enter an action key: a
value there must not come from an impure resolver such as ``now:`` or ``hydra:``.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field, model_validator

from orchestrator.config.data import Data
from orchestrator.config.groups import Arguments, Count, Dotted, Group
from orchestrator.config.objective import Objective
from orchestrator.config.tensorrt import TensorRTOptions

DType = Literal["float16", "float32", "float64", "int8", "uint8", "int16", "int32", "int64", "bool"]
Point = Literal["min", "opt", "max"]
PrecisionName = Literal["fp32", "tf32", "fp16", "bf16", "int8", "fp8"]
PortName = Annotated[str, Field(pattern=r"^[A-Za-z_][\w.\-]*$")]


class Dim(Group):
    """The range of one named dynamic dimension, in elements."""

    min: Count = Field(description="Smallest size that must work.")
    opt: Count = Field(description="Size that is tuned for and measured.")
    max: Count = Field(description="Largest size that must work.")

    @model_validator(mode="after")
    def _ordered(self) -> Dim:
        if not self.min <= self.opt <= self.max:
            raise ValueError(f"needs min <= opt <= max, got {self.min}, {self.opt}, {self.max}")
        return self


class Input(Group):
    """One input of a model."""

    dtype: DType = Field(description="Element type at the model's boundary.")
    shape: list[Count | str] = Field(
        description="Sizes; a string names a dynamic dimension declared under model.dims."
    )


class Checkpoint(Group):
    """Weights loaded into the model after the factory has made it."""

    path: str = Field(description="safetensors or a PyTorch file (pkg://package/file or path).")
    key: str | None = Field(default=None, description="Dotted key of the state dict in the file.")
    strip_prefix: str | None = Field(
        default=None, description="Prefix removed from names, e.g. module."
    )
    strict: bool = Field(default=True, description="Missing or unexpected names are an error.")
    allow_pickle: bool = Field(
        default=False,
        description="Load a pickled file that torch.load(weights_only=True) refuses: runs code.",
    )


class Task(Group):
    """A task metric on labelled or paired samples, computed for PyTorch and for each artifact."""

    metric: str = Field(description="top1, nearest_neighbour, or package.module:function.")
    output: str | None = Field(
        default=None, description="The output it reads (default: the first)."
    )
    count: Count = Field(description="Items evaluated.")
    data: Data | None = Field(default=None, description="Default: model.samples.")


class Model(Group):
    """A model, its inputs and outputs, and where its sample data come from."""

    name: str
    factory: Dotted | None = Field(
        default=None, description="package.module:callable giving a Module."
    )
    args: Arguments = Field(default_factory=dict, description="Keyword arguments of the factory.")
    onnx: str | None = Field(
        default=None, description="An existing .onnx file instead of a factory."
    )
    checkpoint: Checkpoint | None = None
    files: list[str] = Field(
        default_factory=list,
        description="Further files the factory reads through native code (others are recorded).",
    )
    inputs: dict[PortName, Input] = Field(min_length=1)
    outputs: list[PortName] = Field(min_length=1, description="Output names, in order.")
    dims: dict[str, Dim] = Field(default_factory=dict, description="The named dynamic dimensions.")
    samples: Data = Field(description="Real inputs that every artifact is compared on.")
    calibration: Data | None = Field(
        default=None, description="Inputs for int8 (default: samples)."
    )
    batches: Count = Field(default=4, description="Batches compared at the optimum shape.")
    task: Task | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Model:
        if (self.factory is None) == (self.onnx is None):
            raise ValueError("needs exactly one of factory and onnx")
        if self.onnx is not None and self.checkpoint is not None:
            raise ValueError("checkpoint belongs to a factory; an onnx file carries its weights")
        return self


class Exporter(Group):
    """How PyTorch becomes ONNX."""

    name: Literal["dynamo", "torchscript"]
    opset: Count = Field(description="ONNX opset of the file; what comes out is checked.")
    constant_folding: bool = Field(default=True, description="Fold constants during the export.")
    optimize: bool = Field(default=True, description="dynamo: run onnxscript's optimizer.")


class Simplifier(Group):
    """How the exported graph is simplified."""

    name: Literal["onnxsim", "none"]
    fuse_batch_norm: bool = Field(default=True, description="Fold BatchNormalization into Conv.")
    constant_folding: bool = True
    skip: list[str] = Field(
        default_factory=list,
        description="onnxsim passes left out, such as fuse_matmul_add_bias_into_gemm_batched.",
    )


class Precision(Group):
    """The precision asked for; one word, lowered as the target needs it.

    ``fp32`` is fp32 everywhere: TF32, the default of GPU libraries, is a precision of its own.
    """

    name: PrecisionName
    keep_io: bool = Field(default=True, description="Inputs and outputs keep their declared types.")
    keep_op_types: list[str] = Field(
        default_factory=list, description="Operator types left in fp32."
    )
    keep_nodes: list[str] = Field(default_factory=list, description="Node names left in fp32.")
    per_channel: bool = Field(
        default=True, description="int8, fp8: one weight scale per output channel."
    )
    op_types: list[str] = Field(
        default_factory=lambda: ["Conv", "ConvTranspose", "MatMul", "Gemm"],
        description="int8, fp8: operator types that are quantized. Add (residuals) helps fusion in "
        "TensorRT and costs accuracy: the sums of a transformer have outliers.",
    )


class Calibration(Group):
    """How int8 ranges are found."""

    method: Literal["minmax", "entropy", "percentile", "tensorrt_entropy", "tensorrt_minmax"] = (
        Field(
            description="The first three write Q/DQ pairs into the ONNX model, for any target; the "
            "others are TensorRT's own calibrators (entropy-2, min-max), TensorRT <= 10."
        )
    )
    count: Count = Field(default=128, description="Calibration items.")
    percentile: Annotated[float, Field(gt=50, le=100)] = Field(default=99.99)
    bins: Count = Field(default=2048, description="entropy, percentile: histogram bins.")


class Values(Group):
    """The range of the values of an input that holds sizes, element by element."""

    min: list[int] = Field(min_length=1)
    opt: list[int] = Field(min_length=1)
    max: list[int] = Field(min_length=1)

    @model_validator(mode="after")
    def _ordered(self) -> Values:
        if not len(self.min) == len(self.opt) == len(self.max):
            raise ValueError("min, opt and max need the same number of elements")
        for low, best, high in zip(self.min, self.opt, self.max, strict=True):
            if not low <= best <= high:
                raise ValueError(f"needs min <= opt <= max, got {low}, {best}, {high}")
        return self


class Profile(Group):
    """The optimization profiles: narrower ranges than the model declares, per named dimension."""

    name: str = "declared"
    dims: dict[str, Dim] = Field(default_factory=dict)
    further: list[dict[str, Dim]] = Field(
        default_factory=list,
        description="TensorRT: further profiles of the same engine, each narrowing dimensions as "
        "dims does; inputs run in the profile that they fit best.",
    )
    values: dict[PortName, Values] = Field(
        default_factory=dict,
        description="TensorRT: for inputs whose values are sizes (shape tensors), their range.",
    )


class OnnxRuntimeTarget(Group):
    """ONNX Runtime on this machine's processor."""

    backend: Literal["onnxruntime"]
    device: Literal["cpu"] = "cpu"
    optimization_level: Literal["all", "extended", "basic", "none"] = Field(
        default="all", description="ONNX Runtime graph optimizations in the session file."
    )


class TensorRTTarget(TensorRTOptions):
    """A TensorRT engine for the GPU that the toolchain reaches. Null: TensorRT's default."""

    backend: Literal["tensorrt"]
    device: Annotated[int, Field(ge=0)] = Field(
        default=0, description="CUDA device, as the toolchain's process counts them."
    )
    plugins: list[str] = Field(
        default_factory=list,
        description="Plugin libraries, loaded before anything else; their digests are keyed.",
    )
    timing_cache: bool = Field(
        default=True,
        description="Keep tactic timings per device, TensorRT and CUDA in the store. In no key: it "
        "makes builds faster.",
    )
    reuse: bool = Field(
        default=False,
        description="New weights of an unchanged graph: refit an engine that is there instead of "
        "building one. The engine is then built refittable, which may make it slower.",
    )


Target = Annotated[OnnxRuntimeTarget | TensorRTTarget, Field(discriminator="backend")]


class Toolchain(Group):
    """The command that reaches the interpreter which runs the target's actions."""

    name: str = "local"
    command: list[str] | None = Field(
        default=None,
        description="TensorRT: the words that lead to a Python >= 3.8, such as "
        "[/opt/trt/bin/python], [docker, run, -i, --rm, --gpus, all, IMAGE, python3] or "
        "[ssh, HOST, python3]. Null: this interpreter.",
    )
    transport: Literal["auto", "directory", "pipe"] = Field(
        default="auto",
        description="How files travel: through the pipe (ssh, docker, podman), or in a directory "
        "that both sides see under one path.",
    )
    installation: str = Field(
        default="",
        description="ssh, docker: any text that names what is installed there, such as an image's "
        "digest; a new one makes the toolchain be asked again.",
    )
    max_age_s: Annotated[float, Field(gt=0)] = Field(
        default=86400.0,
        description="ssh, docker: it is asked again what it has after this long, in seconds.",
    )


class Tolerance(Group):
    """What one precision may differ from PyTorch; a limit of null is not applied."""

    max_error: float | None = Field(
        default=None, description="Largest absolute error / spread of the reference across inputs."
    )
    mean_error: float | None = Field(default=None, description="Mean absolute error / spread.")
    cosine: float | None = Field(default=None, description="Least cosine similarity.")
    snr_db: float | None = Field(default=None, description="Least signal-to-noise ratio, in dB.")
    task_drop: float | None = Field(default=None, description="Largest drop of the task metric.")


class Compare(Group):
    """When an artifact counts as computing what the PyTorch model computes. Enters no key."""

    name: str = "default"
    fp32: Tolerance
    tf32: Tolerance
    fp16: Tolerance
    bf16: Tolerance
    int8: Tolerance
    fp8: Tolerance
    min_variation: Annotated[float, Field(ge=0)] = Field(
        default=1e-3,
        description="Least spread of a reference output across inputs / its root mean square.",
    )


class Audit(Group):
    """What an artifact's precision audit must say. Enters no key."""

    name: str = "default"
    strict: bool = Field(
        default=False,
        description="An undetermined audit (fused regions that show no types) fails the variant.",
    )


class Benchmark(Group):
    """How latency is measured. Enters no action key; measurements are kept apart."""

    enabled: bool = True
    warmup_ms: Annotated[float, Field(ge=0)] = Field(default=200.0)
    measure_ms: Annotated[float, Field(gt=0)] = Field(
        default=1000.0, description="At least this long."
    )
    min_runs: Count = Field(default=50, description="At least this many inferences.")
    threads: Count = Field(default=1, description="CPU: intra-op threads of the measured session.")
    cuda_graph: bool = Field(
        default=True, description="GPU: measure with a CUDA graph too, where one can be captured."
    )
    transfers: bool = Field(
        default=True, description="GPU: measure with transfers to and from the device too."
    )
    shapes: list[Point] = Field(
        default_factory=lambda: list[Point](("opt",)),
        min_length=1,
        description="GPU: points of the profiles that are measured; the first gives p50_ms.",
    )
    beside: Literal["auto", "none"] = Field(
        default="auto",
        description="GPU: measure PyTorch eager and ONNX Runtime CUDA too, where they are there.",
    )
    fresh: bool = Field(default=False, description="Measure again although a measurement exists.")


class Cache(Group):
    """The store of artifacts and results."""

    dir: str | None = Field(default=None, description="Default: $XDG_CACHE_HOME/orchestrate.")
    salt: str = Field(default="", description="Any text; a new one disowns all earlier results.")
    max_size_gib: Annotated[float, Field(gt=0)] = Field(default=50.0, description="Budget for gc.")


class Executor(Group):
    """Where and how parallel actions run."""

    name: Literal["local"] = "local"
    workers: Count | None = Field(default=None, description="Parallel actions; default: CPU cores.")
    memory_gib: Annotated[float, Field(gt=0)] | None = Field(
        default=None,
        description="Parallel actions are started as long as they need no more together, in GiB; "
        "one that needs more runs alone. Default: 80 % of what the machine or its cgroup has free.",
    )
    timeout_s: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="An action that takes longer is ended and fails."
    )
    retries: Annotated[int, Field(ge=0)] = Field(
        default=1, description="How often an action is run again whose worker was lost."
    )


class Experiment(Group):
    """A named, reproducible set of overrides (conf/experiment/NAME.yaml)."""

    name: str | None = None
    description: str = ""


class Config(Group):
    """One variant: one fully resolved configuration."""

    model: Model
    exporter: Exporter
    simplifier: Simplifier
    precision: Precision
    calibration: Calibration
    profile: Profile
    target: Target
    toolchain: Toolchain
    compare: Compare
    audit: Audit
    benchmark: Benchmark
    cache: Cache
    executor: Executor
    objective: Objective = Field(default_factory=Objective)
    experiment: Experiment


KEYED: Final = (
    "model",
    "exporter",
    "simplifier",
    "precision",
    "calibration",
    "profile",
    "target",
    "toolchain",
)
