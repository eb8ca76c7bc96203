"""Tolerances applied to the numbers of ``judge`` and ``score``: pure Python, and in no key.

A verdict is a list of failures in plain sentences; an empty list passes. A number that is null
where a limit needs one fails that limit: what cannot be known is not passed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from orchestrator.config.schema import Tolerance

Values = Mapping[str, Any]

_NONFINITE: Final = (("nan", "NaN"), ("inf", "Inf"))
_FLOATS: Final = frozenset({"float16", "float32", "float64", "bfloat16"})


def judge_verdict(
    values: Values,
    tolerance: Tolerance,
    min_variation: float,
    outputs: Sequence[str],
    *,
    precision: str = "",
    keep_io: bool = True,
) -> list[str]:
    """Return why an artifact fails against its reference; empty when it passes.

    Args:
        values: Values of the ``judge`` stage.
        tolerance: Limits of the artifact's precision.
        min_variation: ``compare.min_variation``.
        outputs: Declared output names.
        precision: ``fp32``, ``fp16`` or ``int8``: names the limit's config key in the sentences.
        keep_io: Whether outputs keep their declared type; if not, float widths may differ.
    """
    failures = list(_names(values))
    for name in outputs:
        numbers = values["outputs"].get(name)
        if numbers is None:
            if name not in values.get("missing", ()):
                failures.append(f"output {name}: it was never compared")
            continue
        if (broken := _broken_reference(numbers)) is not None:
            failures.append(f"output {name}: {broken}")  # nothing can be said beyond that
            continue
        failures += [
            f"output {name}: {text}" for text in _validity(numbers, min_variation, keep_io)
        ]
        failures += [f"output {name}: {text}" for text in _limits(numbers, tolerance, precision)]
        for point, per_output in values.get("points", {}).items():
            if name not in per_output or len(values["points"]) < 2:
                continue
            failures += [
                f"output {name} at the {point} shape: {text}"
                for text in _limits(per_output[name], tolerance, precision)
                if not any(_same_limit(text, other, name) for other in failures)
            ]
    return failures


def score_verdict(values: Values, tolerance: Tolerance, *, precision: str = "") -> list[str]:
    """Return why the task metric in *values* (of ``score``) fails; empty when it passes.

    *precision* names the limit's config key, as in :func:`judge_verdict`.
    """
    if tolerance.task_drop is None:
        return []
    reference, artifact = values["reference"], values["artifact"]
    if reference is None or artifact is None:
        side = "the PyTorch model" if reference is None else "the artifact"
        return [f"the task metric of {side} is not a finite number, so its drop is not known"]
    drop = reference - artifact
    if drop > tolerance.task_drop + 1e-9:  # 0.98 - 0.97 is a little more than 0.01 in binary
        return [
            f"the task metric drops from {reference:.4f} to {artifact:.4f}, by {drop:.4f}: more "
            f"than {tolerance.task_drop:g} ({_key(precision)}task_drop)"
        ]
    return []


def _names(values: Values) -> Iterator[str]:
    for name in values.get("missing", ()):
        yield f"output {name}: the artifact or the reference does not give it"
    for name in values.get("unexpected", ()):
        yield f"output {name}: it is given but not declared in model.outputs"
    if text := values.get("batches_differ"):
        yield f"the two sides were not computed from the same batches: {text}"


def _broken_reference(numbers: Values) -> str | None:
    """Return what makes the PyTorch model's own output useless, or None."""
    counts = numbers["nonfinite"]["reference"]
    kinds = [f"{kind} ({counts[key]} elements)" for key, kind in _NONFINITE if counts[key]]
    if not kinds:
        return None
    return f"the PyTorch model itself gives {' and '.join(kinds)} (mend the model or its samples)"


def _validity(numbers: Values, min_variation: float, keep_io: bool) -> Iterator[str]:
    """Yield what makes a comparison meaningless, whatever the tolerances."""
    counts = numbers["nonfinite"]["artifact"]
    if counts["nan"]:
        yield f"the artifact gives NaN ({counts['nan']} elements)"
    if counts["inf"]:
        yield f"the artifact gives Inf ({counts['inf']} elements)"
    if mismatch := numbers["shape_mismatch"]:
        yield (
            f"the artifact gives shape {mismatch['artifact']}, the PyTorch model "
            f"{mismatch['reference']} (batch {mismatch['batch']})"
        )
    dtypes = numbers["dtype"]
    if dtypes["reference"] != dtypes["artifact"]:
        widths = not keep_io and _FLOATS.issuperset(dtypes.values())
        if not widths:
            ours, theirs = dtypes["artifact"], dtypes["reference"]
            yield f"the artifact gives {ours}, the PyTorch model {theirs}"
    if not numbers["elements"] and not mismatch:
        yield "it holds no elements, so nothing was compared"
    elif numbers["spread"] is None:
        yield (
            "the reference was seen on fewer than two items of one shape, so its spread across "
            "inputs is not known (raise model.batches, or the batch dimension)"
        )
    elif numbers["variation"] is None or numbers["variation"] < min_variation:
        found = "0" if numbers["variation"] is None else f"{numbers['variation']:.2g}"
        yield (
            f"the reference hardly varies across inputs (variation {found}, below "
            f"compare.min_variation {min_variation:g}): any artifact would pass (use trained "
            "weights or real samples)"
        )


def _limits(numbers: Values, tolerance: Tolerance, precision: str) -> Iterator[str]:
    """Yield each limit of *tolerance* that *numbers* break."""
    key = _key(precision)
    checks = (
        ("max_error", "largest error", tolerance.max_error, True),
        ("mean_error", "mean error", tolerance.mean_error, True),
        ("cosine", "cosine similarity", tolerance.cosine, False),
        ("snr_db", "signal-to-noise ratio", tolerance.snr_db, False),
    )
    for field, words, limit, upper in checks:
        if limit is None:
            continue
        value = numbers[field]
        unit = " of the spread" if upper else " dB" if field == "snr_db" else ""
        if value is None:
            if not _no_error(numbers):
                yield f"{words} is not known, so it is not within {limit:g} ({key}{field})"
        elif value > limit if upper else value < limit:
            side = "above" if upper else "below"
            yield f"{words} {value:.4g}{unit} is {side} {limit:g} ({key}{field})"


def _key(precision: str) -> str:
    return f"compare.{precision}." if precision else ""


def _no_error(numbers: Values) -> bool:
    """Whether every compared element is equal: then an unknown ratio is no failure."""
    return bool(numbers["elements"]) and numbers["max_abs"] == 0.0


def _same_limit(text: str, other: str, name: str) -> bool:
    """Whether *other* already reports, for the output as a whole, the limit that *text* reports."""
    limit = text[text.rindex("(") :]
    return other.startswith(f"output {name}: ") and other.endswith(limit)
