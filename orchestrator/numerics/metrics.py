"""How far the outputs of an artifact are from a reference: streamed over batches, in float64.

Notation: r reference, a artifact, e = |a - r|; sums run over the elements of all batches in which
both are finite, n of them.

- ``max_abs`` = max e; ``mean_abs`` = Σe / n.
- ``max_rel`` = max e / max(|r|, tiny), tiny the least normal float32 (so an error where the
  reference is 0 shows as a huge number); ``mean_rel`` = Σe / Σ|r|.
- ``cosine`` = Σar / √(Σa² Σr²) over all elements as one vector; 1 when both are zero.
- ``snr_db`` = 10 log₁₀(Σr² / Σe²); null when e is zero everywhere (infinite) or r is.
- ``spread``: how much the reference depends on the input. Items are the slices along axis 0 where
  its size is the batch's item count, otherwise whole batches. Items of one shape form a group g of
  n_g items of s_g elements. With M_g the sum over its elements of squared deviations from the
  element's mean over the group, spread = √(Σ M_g / Σ (n_g - 1) s_g): the root mean square over
  elements of the (unbiased) standard deviation across items, pooled over item shapes. Null without
  two items of one shape.
- ``variation`` = spread / root mean square of the reference; null where either is unknown or the
  reference is 0 everywhere.
- ``max_error`` = max_abs / spread, ``mean_error`` = mean_abs / spread; null when spread is null or
  0.
- ``mismatch``: the share of elements that differ at all; integer and boolean references only.

Deviations are accumulated by the pairwise update of Chan, Golub and LeVeque (1979).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

Array = np.ndarray[Any, Any]
Json = dict[str, Any]

TINY: Final = float(np.finfo(np.float32).tiny)


@dataclass
class Spread:
    """Accumulates the spread of a reference across items, group by item shape."""

    groups: dict[tuple[int, ...], tuple[int, Array, Array]] = field(default_factory=dict)

    def add(self, reference: Array, items: int) -> None:
        """Add one batch; items that are not finite everywhere are left out."""
        split = reference.ndim > 0 and reference.shape[0] == items
        rows = np.asarray(reference if split else reference[None], dtype=np.float64)
        rows = rows[np.isfinite(rows).reshape(len(rows), -1).all(axis=1)]
        if not rows.size:
            return
        count, mean = len(rows), rows.mean(axis=0)
        deviations = np.square(rows - mean).sum(axis=0)
        if rows.shape[1:] in self.groups:
            before, mean_before, deviations_before = self.groups[rows.shape[1:]]
            delta = mean - mean_before
            total = before + count
            deviations += deviations_before + np.square(delta) * (before * count / total)
            mean, count = mean_before + delta * (count / total), total
        self.groups[rows.shape[1:]] = (count, mean, deviations)

    def value(self) -> float | None:
        """Return the spread, or None when no two items had one shape."""
        freedom = sum((count - 1) * mean.size for count, mean, _ in self.groups.values())
        if not freedom:
            return None
        return math.sqrt(sum(float(dev.sum()) for _, _, dev in self.groups.values()) / freedom)


@dataclass
class Errors:
    """Accumulates the errors of one output over batches."""

    elements: int = 0
    finite: int = 0
    max_abs: float = 0.0
    max_rel: float = 0.0
    sum_abs: float = 0.0
    sum_reference: float = 0.0
    rr: float = 0.0
    aa: float = 0.0
    ar: float = 0.0
    ee: float = 0.0
    differing: int = 0
    exact: bool = False
    shape_mismatch: Json | None = None
    dtypes: dict[str, str] = field(default_factory=dict)
    nonfinite: dict[str, dict[str, int]] = field(
        default_factory=lambda: {
            "reference": {"nan": 0, "inf": 0},
            "artifact": {"nan": 0, "inf": 0},
        }
    )

    def add(self, reference: Array, artifact: Array, batch: str) -> None:
        """Add one batch; *batch* names it when its shapes differ, and then nothing is compared."""
        self._add_dtype("reference", reference)
        self._add_dtype("artifact", artifact)
        for side, array in (("reference", reference), ("artifact", artifact)):
            if array.dtype.kind == "f":
                self.nonfinite[side]["nan"] += int(np.isnan(array).sum())
                self.nonfinite[side]["inf"] += int(np.isinf(array).sum())
        if reference.shape != artifact.shape:
            self.shape_mismatch = self.shape_mismatch or {
                "batch": batch,
                "reference": list(reference.shape),
                "artifact": list(artifact.shape),
            }
            return
        if reference.dtype.kind in "biu":
            self.exact = True
            self.differing += int((reference != artifact).sum())
        self._add_errors(reference, artifact)

    def _add_errors(self, reference: Array, artifact: Array) -> None:
        r = np.asarray(reference, dtype=np.float64).ravel()
        a = np.asarray(artifact, dtype=np.float64).ravel()
        self.elements += r.size
        both = np.isfinite(r) & np.isfinite(a)
        if not both.all():
            r, a = r[both], a[both]
        self.finite += r.size
        if not r.size:
            return
        e, size = np.abs(a - r), np.abs(r)
        self.max_abs = max(self.max_abs, float(e.max()))
        self.max_rel = max(self.max_rel, float((e / np.maximum(size, TINY)).max()))
        self.sum_abs += float(e.sum())
        self.sum_reference += float(size.sum())
        self.rr += float(r @ r)
        self.aa += float(a @ a)
        self.ar += float(a @ r)
        self.ee += float(e @ e)

    def _add_dtype(self, side: str, array: Array) -> None:
        self.dtypes.setdefault(side, array.dtype.name)
        if array.dtype.name not in self.dtypes[side].split("|"):
            self.dtypes[side] += f"|{array.dtype.name}"  # differs between batches

    def values(self, spread: float | None) -> Json:
        """Return the numbers of this output as JSON, errors relative to *spread*."""
        mean_abs = self.sum_abs / self.finite if self.finite else None
        max_abs = self.max_abs if self.finite else None
        rms = math.sqrt(self.rr / self.finite) if self.finite else 0.0
        found: Json = {
            "elements": self.elements,
            "max_abs": max_abs,
            "mean_abs": mean_abs,
            "max_rel": self.max_rel if self.finite else None,
            "mean_rel": self._mean_rel(),
            "cosine": self._cosine(),
            "snr_db": 10 * math.log10(self.rr / self.ee) if self.rr and self.ee else None,
            "spread": spread,
            "variation": _ratio(spread, rms),
            "max_error": _ratio(max_abs, spread),
            "mean_error": _ratio(mean_abs, spread),
            "nonfinite": self.nonfinite,
            "dtype": self.dtypes,
            "shape_mismatch": self.shape_mismatch,
        }
        if self.exact:
            found["mismatch"] = self.differing / self.elements if self.elements else None
        return {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in found.items()
        }

    def _mean_rel(self) -> float | None:
        if not self.finite or (self.sum_abs and not self.sum_reference):
            return None
        return self.sum_abs / self.sum_reference if self.sum_reference else 0.0

    def _cosine(self) -> float | None:
        if not self.finite:
            return None
        if not self.rr or not self.aa:
            return 1.0 if self.rr == self.aa else 0.0
        cosine = self.ar / (math.sqrt(self.rr) * math.sqrt(self.aa))
        return min(1.0, max(-1.0, cosine))


def _ratio(value: float | None, by: float | None) -> float | None:
    return value / by if value is not None and by else None


@dataclass
class Comparison:
    """Accumulates all outputs of one artifact against the reference; see the module's formulas."""

    overall: dict[str, Errors] = field(default_factory=dict)
    points: dict[str, dict[str, Errors]] = field(default_factory=dict)
    spreads: dict[str, Spread] = field(default_factory=dict)

    def add(
        self, name: str, reference: Array, artifact: Array, *, batch: str, point: str, items: int
    ) -> None:
        """Add one output of one batch of *items* items at shape point *point*."""
        self.overall.setdefault(name, Errors()).add(reference, artifact, batch)
        self.points.setdefault(point, {}).setdefault(name, Errors()).add(reference, artifact, batch)
        self.spreads.setdefault(name, Spread()).add(reference, items)

    def values(self) -> Json:
        """Return ``{"outputs": {name: …}, "points": {point: {name: …}}}``.

        Errors of a point are relative to the output's spread over all batches: a point alone may
        hold a single item, which has none.
        """
        spreads = {name: spread.value() for name, spread in self.spreads.items()}
        return {
            "outputs": {name: each.values(spreads[name]) for name, each in self.overall.items()},
            "points": {
                point: {name: each.values(spreads[name]) for name, each in outputs.items()}
                for point, outputs in self.points.items()
            },
        }
