"""What speaks for or against a precision that the audit could not determine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from orchestrator.plan.graph import Variant
from orchestrator.report.table import size_text

Values = Mapping[str, Mapping[str, Any]]


def evidence(
    variant: Variant, peers: Sequence[Variant], values: Callable[[Variant], Values]
) -> str:
    """Return size and speed beside what fp32 weights and a tf32 build have; '' when determined.

    Args:
        variant: The variant that was audited.
        peers: All variants of the run; the one that differs in nothing but tf32 is compared with.
        values: Gives the values of a variant's steps, by role.
    """
    own = values(variant)
    audit = own.get("audit", {})
    if audit.get("verdict") != "undetermined":
        return ""
    said = [f"precision undetermined: {audit['reason']}"]
    plan, full = audit.get("plan_bytes"), audit.get("fp32_bytes")
    if plan and full:
        said.append(
            f"the plan takes {size_text(plan)}, the model's weights {size_text(full)} in fp32"
        )
    other = next((one for one in peers if _is_tf32_of(variant, one)), None)
    if other is not None:
        mine, theirs = own.get("benchmark", {}), values(other).get("benchmark", {})
        if mine.get("p50_ms") and theirs.get("p50_ms"):
            factor = theirs["p50_ms"] / mine["p50_ms"]
            said.append(f"it runs at {factor:.2f} times the speed of the tf32 build")
    return "; ".join(said)


def _is_tf32_of(variant: Variant, other: Variant) -> bool:
    ours = variant.config.model_dump(exclude={"precision", "calibration", "compare", "benchmark"})
    theirs = other.config.model_dump(exclude={"precision", "calibration", "compare", "benchmark"})
    return other.config.precision.name == "tf32" and other is not variant and ours == theirs
