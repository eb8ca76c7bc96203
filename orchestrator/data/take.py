"""Takes the samples of one action from their source and writes them as checked batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
from pydantic import TypeAdapter

from orchestrator.config.data import Data
from orchestrator.config.schema import Dim
from orchestrator.data.points import Purpose, batch_dim, compare_batches, counted_batches
from orchestrator.data.ports import Array, Port, conform
from orchestrator.data.source import Request, Source, Taken, open_source
from orchestrator.errors import StageError
from orchestrator.numerics.batches import LABELS, Batch, write_batches
from orchestrator.stages.base import Context, Json

KEYS: Final[Mapping[Purpose, str]] = {
    "compare": "model.samples",
    "task": "model.task.data",
    "calibration": "model.calibration",
}


def take_samples(ctx: Context) -> Json:
    """Run the ``samples`` stage; parameters, values and errors are described there."""
    purpose: Purpose = ctx.params["purpose"]
    ports = tuple(
        Port(name=name, dtype=declared["dtype"], shape=tuple(declared["shape"]))
        for name, declared in ctx.params["inputs"].items()
    )
    profiles = [_dims(sizes) for sizes in (ctx.params["dims"], *ctx.params.get("further", ()))]
    for dims in profiles:
        _check_dims(ports, dims)
    request = Request(
        ports=ports,
        batch=batch_dim(ports),
        paths=ctx.paths,
        observe=ctx.observe,
        labels=purpose == "task",
        where=KEYS[purpose],
    )
    source = open_source(_data(ctx), request)
    batches = _plan(ctx, purpose, profiles, request, source)
    labels: list[Array] = []
    root = ctx.outputs["samples"]
    write_batches(root, _checked(ctx, request, source, batches, labels))
    if labels:
        np.save(root / LABELS, np.concatenate(labels), allow_pickle=False)
    return {"items": sum(batch.items for batch in batches), "points": _points(batches)}


def _data(ctx: Context) -> Data:
    # Paths are not parameters; the schema wants one where a folder is meant.
    data = dict(ctx.params["data"])
    if data["kind"] == "images":
        data["path"] = str(ctx.paths["data"])
    checked: Data = TypeAdapter(Data).validate_python(data)
    return checked


def _dims(sizes: Mapping[str, Any]) -> dict[str, Dim]:
    return {name: Dim.model_validate(size) for name, size in sizes.items()}


def _check_dims(ports: tuple[Port, ...], dims: Mapping[str, Dim]) -> None:
    for port in ports:
        for size in port.shape:
            if isinstance(size, str) and size not in dims:
                raise StageError(
                    f"the dimension '{size}' has no range; declared are "
                    f"{', '.join(dims) or 'none'}",
                    where=f"model.inputs.{port.name}.shape",
                    hint=f"add model.dims.{size} with min, opt and max",
                )


def _plan(
    ctx: Context,
    purpose: Purpose,
    profiles: Sequence[Mapping[str, Dim]],
    request: Request,
    source: Source,
) -> list[Batch]:
    if purpose == "compare":
        batches = compare_batches(profiles, request.batch, source.group, ctx.params["batches"])
        wanted = sum(batch.items for batch in batches)
        if source.items is not None and wanted > source.items:
            ctx.log(f"{source.items} items for {wanted} places: items are used more than once")
        return batches
    count: int = ctx.params["count"]
    if source.items is not None and count > source.items:
        if purpose == "task":
            raise StageError(
                f"{count} items are to be evaluated, but there are {source.items}",
                where="model.task.count",
                hint=f"use count: {source.items}, or give more data",
            )
        ctx.log(f"calibrating on all {source.items} items; {count} were asked for")
        count = source.items
    return counted_batches(purpose, profiles[0], request.batch, source.group, count, ctx.log)


def _checked(
    ctx: Context, request: Request, source: Source, batches: list[Batch], labels: list[Array]
) -> Iterator[tuple[Batch, dict[str, Array]]]:
    """Yield each batch with its arrays, and append the labels of its items to *labels*."""
    for number, batch in enumerate(batches):
        ctx.progress(number / len(batches), f"batch {number + 1} of {len(batches)}")
        taken: Taken = source.take(batch.dims, batch.offset, batch.items)
        where = f"{request.where}, items {batch.offset} to {batch.offset + batch.items - 1}"
        yield (
            batch,
            {
                port.name: conform(taken.arrays[port.name], port, batch.dims, where)
                for port in request.ports
            },
        )
        if request.labels and taken.labels is not None:
            labels.append(taken.labels)


def _points(batches: list[Batch]) -> dict[str, dict[str, Any]]:
    """Return, per point, the dims of its first batch, its number of batches and of items."""
    points: dict[str, dict[str, Any]] = {}
    for batch in batches:
        point = points.setdefault(batch.point, {"dims": dict(batch.dims), "batches": 0, "items": 0})
        point["batches"] += 1
        point["items"] += batch.items
    return points
