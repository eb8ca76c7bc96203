"""beside: latency of the same model in PyTorch eager or ONNX Runtime, on the artifact's device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

from orchestrator.stages.base import Context, Json, Memory, Repeats, Scope, Stage, Use

#: Raised whenever what is timed, or how, changes: measurements of two protocols are not compared.
PROTOCOL: Final = 1

_KNOWN: Final = {
    "engine": ("torch", "onnxruntime"),
    "device": ("cuda", "cpu"),
    "precision": ("fp32", "tf32", "fp16", "bf16"),
}


def run(ctx: Context) -> Json:
    """Measure ``params["engine"]``, ``torch`` or ``onnxruntime``, on batches of ``samples``.

    ``device`` is ``cuda`` or ``cpu``; ``uuid``, where given, names the one GPU to use;
    ``precision`` is fp32, tf32, fp16 or bf16; ``benchmark`` is the protocol, with ``shapes`` the
    points that are measured. For torch the module's parameters are those of ``reference``. ``onnx``
    is what ONNX Runtime runs; for torch it stands for the module's code in the key: this stage
    records no user code, since measurements are looked up by their inputs alone.

    Returns:
        ``engine``, ``device``, ``precision``, ``protocol``, ``available``. If it could be measured:
        ``measurements``, one for each point without and (on a GPU, where asked for) with transfers,
        of ``host``, ``event`` and ``queued_ms``; the statistics of the first point's last one on
        the host's clock (``p50_ms``, …), as for the artifact itself; how it computed (``how``,
        ``tf32``, ``versions``); ``machine``, ``clocks``, ``driver``, ``dims``. Otherwise
        ``reason``.

    Raises:
        StageError: there are no samples, or the module or its samples are not as declared.
    """
    from orchestrator.backends.beside.engine import UnavailableError
    from orchestrator.backends.beside.launch import measure

    _check(ctx)
    fixed = {name: ctx.params[name] for name in ("engine", "device", "precision")}
    fixed |= {"protocol": PROTOCOL}
    try:
        values = measure(ctx, _batches(ctx))
    except UnavailableError as exc:
        ctx.log(f"not measured: {exc}")
        return {**fixed, "available": False, "reason": str(exc)}
    return {**fixed, "available": True, **values}


def _check(ctx: Context) -> None:
    """Refuse what no planner of ours should ask for."""
    params = ctx.params
    for name, known in _KNOWN.items():
        if params[name] not in known:
            raise ValueError(f"{name}={params[name]} is none of {known}: mend the planner")
    if params["engine"] == "onnxruntime" and "onnx" not in ctx.inputs:
        raise ValueError("engine=onnxruntime needs the input `onnx`: mend the planner")
    if params["device"] == "cpu" and params["precision"] == "tf32":
        raise ValueError("TF32 is a precision of GPUs: mend the planner")


def _batches(ctx: Context) -> list[Json]:
    """Return the first batch of each point asked for; one to measure where there is none."""
    from orchestrator.numerics.batches import measured_batch, read_index

    samples = ctx.inputs["samples"]
    batches = read_index(samples)
    points: list[str] = ctx.params["benchmark"].get("shapes") or ["opt"]
    found = [next((one for one in batches if one.point == point), None) for point in points]
    return [asdict(one) for one in found if one is not None] or [asdict(measured_batch(samples))]


def _tools(params: Mapping[str, Any]) -> tuple[str, ...]:
    return (params["engine"],)


STAGE: Final = Stage(
    name="beside",
    version=PROTOCOL,
    repeats=Repeats.MEASUREMENT,
    inputs=("samples", "onnx?"),
    tools=_tools,
    scope=Scope.CPU,  # it calls from Python: the processor decides as much as the GPU
    exclusive=True,
    device=Use.ALONE,
    memory=Memory(base_mib=2048, per_input=5.0),
    seconds=10.0,
    run=run,
)
