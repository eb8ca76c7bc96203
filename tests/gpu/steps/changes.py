"""What a change costs: another workspace, other weights, and other weights with refit."""

from __future__ import annotations

import shutil
from pathlib import Path

from orchestrator.locations import resolve
from tests.gpu.steps.check import Check, Json, failures
from tests.gpu.variants import BEFORE_THE_ENGINE, action, build_row, ran

WEIGHTS = "pkg://orchestrator.examples.digits/weights.safetensors"


def workspace(check: Check) -> Json:
    """Change the workspace's limit: only the engine and what follows may run."""
    check.variant("digits")
    timed = check.command.build("digits", "++target.workspace_mib=1024")
    stages = ran(timed.built.variants)
    return {
        "ok": "build" in stages and not BEFORE_THE_ENGINE & set(stages),
        "shown": f"ran: {', '.join(stages)}",
        "ran": stages,
        "command_s": timed.seconds,
    }


def weights(check: Check) -> Json:
    """Change a weight: everything from the export on runs, the samples do not."""
    path = _own_weights(check)
    check.variant("digits", f"model.checkpoint.path={path}")
    _scale(path, 1.02)
    timed = check.command.build("digits", f"model.checkpoint.path={path}")
    stages = ran(timed.built.variants)
    (variant,) = timed.built.variants
    return {
        "ok": {"export", "build"} <= set(stages) and "samples" not in stages,
        "shown": f"ran: {', '.join(stages)}; {failures(timed.built)}",
        "ran": stages,
        "command_s": timed.seconds,
        "build": build_row(variant),
    }


def refit(check: Check) -> Json:
    """Change a weight where engines are refitted: no engine is built."""
    path = _own_weights(check)
    reuse = (f"model.checkpoint.path={path}", "target.reuse=true")
    first = check.variant("digits", *reuse)
    _scale(path, 1.03)
    timed = check.command.build("digits", *reuse)
    (second,) = timed.built.variants
    stages = ran([second])
    refitted = action(second, "refit")
    rebuilt, refit_s = action(first, "build").get("built_seconds"), refitted.get("built_seconds")
    return {
        "ok": second["status"] == "passed"
        and "build" not in stages
        and bool(refitted.get("values", {}).get("refitted")),
        "shown": f"build {rebuilt} s, refit {refit_s} s; ran: {', '.join(stages)}",
        "ran": stages,
        "build_s": rebuilt,
        "refit_s": refit_s,
        "refit": refitted.get("values"),
        "snr_db": second["summary"]["snr_db"],
    }


def _own_weights(check: Check) -> Path:
    """Return a fresh copy of the trained weights, to be changed."""
    path = check.work / "digits.safetensors"
    shutil.copyfile(resolve(WEIGHTS, Path.cwd()), path)
    return path


def _scale(path: Path, factor: float) -> None:
    """Multiply the last layer's weights."""
    from safetensors.numpy import load_file, save_file

    tensors = load_file(path)
    tensors["classify.weight"] = tensors["classify.weight"] * factor
    save_file(tensors, path)
