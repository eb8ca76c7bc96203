"""Simplify: onnxsim folds constants and fuses operators; the result is checked again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from orchestrator.errors import StageError, nearest
from orchestrator.stages.base import Context, Json, Memory, Repeats, Stage

if TYPE_CHECKING:
    from onnx import ModelProto

HINT = "use simplifier=none, or another exporter or opset"


def _tools(params: Mapping[str, Any]) -> tuple[str, ...]:
    # onnxsim folds constants by running them in ONNX Runtime.
    if params["simplifier"]["name"] == "none":
        return ("onnx",)
    return ("onnxsim", "onnx", "onnxruntime")


def run(ctx: Context) -> Json:
    """Write the simplified model to ``onnx``.

    Returns:
        ``nodes_before`` and ``nodes``.

    Raises:
        StageError: when the simplifier fails, gives an invalid model, or changes inputs or outputs.
    """
    from orchestrator.graphs import files as onnx_files

    options = ctx.params["simplifier"]
    named = options["name"] != "none"
    model = onnx_files.load(ctx.inputs["onnx"], weights=named)
    before = onnx_files.facts(model)
    if named:
        model = _simplified(ctx, model)
    after = onnx_files.facts(model)
    for kind in ("inputs", "outputs"):
        old, new = getattr(before, kind), getattr(after, kind)
        if [(p.name, p.dtype) for p in old] != [(p.name, p.dtype) for p in new]:
            raise StageError(
                f"onnxsim changed the {kind} from {[p.name for p in old]} to "
                f"{[p.name for p in new]}",
                where="simplifier",
                hint=HINT,
            )
    path = onnx_files.save(model, ctx.outputs["onnx"], source=ctx.inputs["onnx"])
    try:
        onnx_files.check(path)
    except StageError as exc:
        raise StageError(
            f"the simplified model is invalid: {exc.message}", where="simplifier", hint=HINT
        ) from exc
    return {"nodes_before": before.nodes, "nodes": after.nodes}


def _simplified(ctx: Context, model: ModelProto) -> ModelProto:
    import onnxsim

    from orchestrator.exporters.quiet import captured
    from orchestrator.modules.calls import first_lines

    options = ctx.params["simplifier"]
    native = onnxsim.onnx_simplifier.C
    listings = ("_list_optimizers", "_list_other_optimizers")  # not in every version
    known = [name for listing in listings for name in getattr(native, listing, list)()]
    for name in options.get("skip", ()):
        if known and name not in known:
            raise StageError(
                f"onnxsim has no pass '{name}'",
                where="simplifier.skip",
                hint=nearest(name, known) or f"passes: {', '.join(sorted(known))}",
            )
    try:
        with captured(ctx.scratch, ctx.log):
            result: ModelProto = onnxsim.simplify(
                model,
                skip_fuse_bn=not options.get("fuse_batch_norm", True),
                skip_constant_folding=not options.get("constant_folding", True),
                skipped_optimizers=list(options.get("skip", ())) or None,
                certify=False,
            )[0]
    except Exception as exc:
        raise StageError(
            f"onnxsim failed: {type(exc).__name__}: {first_lines(exc)}",
            where="simplifier",
            hint=HINT,
        ) from exc
    return result


STAGE = Stage(
    name="simplify",
    version=1,
    repeats=Repeats.BYTES,
    inputs=("onnx",),
    outputs=("onnx",),
    tools=_tools,
    memory=Memory(base_mib=512, per_input=8.0),
    seconds=2.0,
    run=run,
)
