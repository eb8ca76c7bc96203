"""What can go wrong: each ends in one clear message and an exit code, and nothing is lost."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from orchestrator.backends.tensorrt.plan_file import digest, manifest_path
from tests.gpu.commands import Timed
from tests.gpu.steps.check import Check, Json, engine_of, new_engine, told
from tests.gpu.variants import ran

#: What no message to a user may hold.
RAW = ("Traceback", "internal error")
#: An engine of its own for the steps that damage or starve one, quick to build.
OWN = ("precision=fp32", "++target.optimization_level=1")
_FREE_MIB = 150


def _as_expected(timed: Timed, codes: Sequence[int], words: Sequence[str]) -> Json:
    """Return a row: as expected with one of the exit codes, and all *words* in what was said."""
    text = timed.ran.text
    missing = [word for word in words if word not in text]
    raw = [word for word in RAW if word in text]
    row = told(timed)
    row["ok"] = timed.ran.code in codes and not missing and not raw
    if missing or raw:
        row["wrong"] = f"lacks {missing}, holds {raw}"
    return row


def refused(
    check: Check,
    overrides: Sequence[str],
    *,
    codes: Sequence[int],
    words: Sequence[str],
    env: Mapping[str, str] | None = None,
) -> Json:
    """Build digits with *overrides*; return how it was refused."""
    timed = check.command.build("digits", "precision=fp32", *overrides, env=env)
    return _as_expected(timed, codes, words)


def plugin(check: Check) -> Json:
    """A plugin library that is not there."""
    return refused(check, ["target.plugins=[/nowhere.so]"], codes=(2,), words=["/nowhere.so"])


def profile_order(check: Check) -> Json:
    """A profile whose minimum is above its maximum."""
    turned = "+profile.dims.batch={min:8,opt:4,max:2}"
    return refused(check, [turned], codes=(2,), words=["profile.dims.batch", "min <= opt <= max"])


def profile_range(check: Check) -> Json:
    """A profile outside of what the model declares."""
    wide = "+profile.dims.batch={min:1,opt:8,max:4096}"
    return refused(check, [wide], codes=(2,), words=["profile.dims.batch", "4096"])


def option(check: Check) -> Json:
    """An option that this TensorRT does not have."""
    newer = "++target.tiling_level=full"
    return refused(check, [newer], codes=(2,), words=["tiling_level", "10.8"])


def precision(check: Check) -> Json:
    """A precision that this TensorRT does not have."""
    return refused(check, ["precision=bf16"], codes=(2,), words=["bf16", "10.0"])


def no_driver(check: Check) -> Json:
    """No device is visible."""
    hidden = {"CUDA_VISIBLE_DEVICES": ""}
    return refused(check, [], codes=(2,), words=["CUDA_VISIBLE_DEVICES"], env=hidden)


def no_tensorrt(check: Check) -> Json:
    """A toolchain without TensorRT."""
    plain = f"toolchain.command=['{sys.executable}']"
    return refused(check, [plain], codes=(2,), words=["TensorRT is not installed"])


def memory(check: Check) -> Json:
    """Too little GPU memory: the run fails, remembers nothing, and the same command then works."""
    own = (*OWN, new_engine())
    with check.command.hogged(_FREE_MIB) as taken:
        failed = check.command.build("digits", *own)
    row = _as_expected(failed, (1,), ["emory"])  # GPU memory, or cudaErrorMemoryAllocation
    after = check.command.build("digits", *own)
    row |= {"taken_bytes": taken, "after": told(after) | {"ran": ran(after.built.variants)}}
    row["ok"] = row["ok"] and after.ran.code == 0
    return row


def plan_version(check: Check) -> Json:
    """A plan of another TensorRT version."""

    def older(data: bytearray) -> bytearray:
        data[24:28] = bytes((8, 5, 3, 1))
        return data

    return _checked_plan(check, "version", older, trusted=True, words=["8.5.3"])


def plan_truncated(check: Check) -> Json:
    """A plan that lacks its second half."""
    return _checked_plan(check, "truncated", lambda data: data[: len(data) // 2], words=["bytes"])


def plan_flipped(check: Check) -> Json:
    """A plan with one flipped bit."""
    return _checked_plan(check, "flipped", _flipped, words=["SHA-256"])


def _flipped(data: bytearray) -> bytearray:
    data[len(data) // 2] ^= 0x10
    return data


def _checked_plan(
    check: Check,
    name: str,
    change: Callable[[bytearray], bytearray],
    *,
    words: Sequence[str],
    trusted: bool = False,
) -> Json:
    """Change a copy of an engine and let ``check-plan`` look at it, before and after.

    *trusted*: the manifest beside it is written for the changed bytes.
    """
    folder = check.work / f"plan-{name}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    engine = engine_of(check.variant("digits", *OWN))
    plan = folder / engine.name
    shutil.copyfile(engine, plan)
    shutil.copyfile(manifest_path(engine), manifest_path(plan))
    whole = _check_plan(check, plan)
    plan.write_bytes(change(bytearray(plan.read_bytes())))
    if trusted:
        manifest = json.loads(manifest_path(plan).read_text())
        manifest["plan"] = {"sha256": digest(plan), "bytes": plan.stat().st_size}
        manifest_path(plan).write_text(json.dumps(manifest))
    timed = _check_plan(check, plan)
    row = _as_expected(timed, (1,), words)
    lines = [" ".join(line.split()) for line in timed.ran.text.splitlines()]
    row |= {"message": "\n".join(lines).strip()[:1200], "whole": told(whole)["code"]}
    row["ok"] = row["ok"] and whole.ran.code == 0
    return row


def _check_plan(check: Check, plan: Path) -> Timed:
    toolchain = check.command.toolchain
    words = ["--toolchain", *toolchain] if toolchain else []
    return check.command.run("check-plan", str(plan), *words)


def stored_flipped(check: Check) -> Json:
    """A flipped bit in the store: found by ``cache verify``, never run, and built again.

    It is flipped back at the end, so that later verifications tell of other damage only.
    """
    engine = engine_of(check.variant("digits", *OWN))
    before = engine.read_bytes()
    _overwrite(engine, _flipped(bytearray(before)))
    try:
        verified = check.command.run("cache", "verify")
        again = check.command.build("digits", *OWN)
    finally:
        _overwrite(engine, before)
    stages = ran(again.built.variants)
    return {
        "ok": verified.ran.code != 0 and again.ran.code == 0 and "build" in stages,
        "message": verified.ran.text.strip()[-600:],
        "verify_code": verified.ran.code,
        "ran": stages,
        **{name: value for name, value in told(again).items() if name != "message"},
    }


def _overwrite(path: Path, data: bytes | bytearray) -> None:
    """Write into a file of the store, which is read-only."""
    path.chmod(0o644)
    path.write_bytes(data)
    path.chmod(0o444)


def whole(check: Check) -> Json:
    """After all of it: every byte of the store is what its name says, and nothing runs again."""
    verified = check.command.run("cache", "verify")
    timed = check.command.build("digits", *OWN)
    counts = timed.built.results["counts"]
    return {
        "ok": verified.ran.code == 0 and timed.ran.code == 0 and not counts.get("ran"),
        "shown": f"verify: {verified.ran.code}; {counts}",
        "verify": verified.ran.text.strip()[-300:],
    }
