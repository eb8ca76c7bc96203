"""Several GPUs, and somebody else on one of them."""

from __future__ import annotations

import json
import secrets
import uuid

from orchestrator.backends.tensorrt.plan_file import manifest_path
from orchestrator.backends.tensorrt.probe import Probed, probe
from orchestrator.backends.tensorrt.toolchain import Toolchain
from orchestrator.backends.tensorrt.worker import Nvml
from tests.command import Built
from tests.gpu.steps.check import Check, Json, engine_of, failures, new_engine
from tests.gpu.steps.processes import MARK, when_building

_FREE_MIB = 16 << 10


def at_once(check: Check) -> Json:
    """Build two engines on two GPUs at the same time, and run each on whichever is idle."""
    seen = _probed(check).devices
    if len(seen) < 2:
        return _skipped(f"the toolchain sees {len(seen)} GPU, and this needs two equal ones")
    token, size = uuid.uuid4().hex, 4096 + secrets.randbelow(4096)
    sizes = f"++target.workspace_mib={size},{size + 4096}"
    own = ("precision=fp32", sizes, "benchmark=none", "executor.workers=2")
    words = ["build", "--json", "-m", *check.command.words("digits", *own)]
    process = check.command.start(*words, env={MARK: token})
    building = when_building(check, process, token)
    ended = check.command.finished(process)
    built = Built(**vars(ended), modules=frozenset(), peak_kib=0)
    plans = [engine_of(variant) for variant in built.variants]
    manifests = [json.loads(manifest_path(plan).read_text()) for plan in plans]
    used = {manifest["built"]["device"]["uuid"] for manifest in manifests}
    return {
        "ok": ended.code == 0 and len(building) == 2 and len(used) == 2 and used <= set(seen),
        "shown": f"{len(building)} builders at once, on {len(used)} of {len(seen)} equal GPUs",
        "code": ended.code,
        "message": " ".join(failures(built)),
    }


def neighbour(check: Check) -> Json:
    """Build while another process holds memory of the GPU: a note says so, and nothing fails."""
    gpu = _probed(check).devices[0]
    alone = {"CUDA_VISIBLE_DEVICES": gpu}
    with check.command.hogged(_FREE_MIB):
        listed = Nvml(gpu).processes()
        ended = check.command.build("digits", new_engine(), "benchmark=none", env=alone)
    (variant,) = ended.built.variants
    (values,) = [one["values"] for one in variant["actions"] if one["stage"] == "build"]
    notes = values.get("notes", [])
    if not listed:
        return _skipped("the driver lists no processes here, as in a container") | {"notes": notes}
    return {"ok": ended.ran.code == 0 and len(notes) == 1, "shown": " ".join(notes)}


def _probed(check: Check) -> Probed:
    return probe(Toolchain(command=tuple(check.command.toolchain) or None), None)


def _skipped(reason: str) -> Json:
    return {"ok": True, "skipped": True, "shown": f"skipped: {reason}"}
