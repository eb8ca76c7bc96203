"""Checkpoints: safetensors or PyTorch files, checked name by name against the model they fill."""

from __future__ import annotations

import pickle  # noqa: TID251 - its error class only; nothing here unpickles but torch.load
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.errors import StageError, nearest

if TYPE_CHECKING:
    import torch

    from orchestrator.stages.base import Context

    State = dict[str, torch.Tensor]

WHERE = "model.checkpoint"


def load_checkpoint(ctx: Context, module: torch.nn.Module) -> None:
    """Fill *module* from the file ``ctx.paths['checkpoint']`` as ``ctx.params['checkpoint']`` says.

    Raises:
        StageError: when the file is missing, unreadable or unsafe, has no state dict at ``key``,
            or its names
            or shapes differ from the module's (names only when ``strict``).
    """
    options = ctx.params["checkpoint"]
    path = ctx.paths.get("checkpoint")
    if path is None or not path.is_file():
        raise StageError(
            f"the checkpoint {path or ''} does not exist",
            where=WHERE,
            hint="check model.checkpoint.path",
        )
    if is_safetensors(path):
        content: object = _read_safetensors(path)
    else:
        with ctx.observe.calling():
            content = _read_torch(path, allow_pickle=bool(options.get("allow_pickle")))
    state = _strip(_select(content, options.get("key"), path), options.get("strip_prefix"))
    _fill(module, state, strict=options.get("strict", True), name=path.name)


def is_safetensors(path: Path) -> bool:
    """Say whether *path* is a safetensors file, by content: an u64 length and a JSON header."""
    with path.open("rb") as file:
        head = file.read(9)
    size = int.from_bytes(head[:8], "little")
    return len(head) == 9 and head[8:] == b"{" and size + 8 <= path.stat().st_size


def _read_safetensors(path: Path) -> State:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path, device="cpu")
    except SafetensorError as exc:
        raise StageError(
            f"{path.name} is damaged: {exc}", where=WHERE, hint="copy or download it again"
        ) from exc


def _read_torch(path: Path, *, allow_pickle: bool) -> object:
    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True)  # noqa: TID251
    except Exception as exc:
        unsafe = isinstance(exc, pickle.UnpicklingError) and "weights_only" in str(exc).lower()
        if not _is_pickle(path) or not unsafe:
            raise StageError(
                f"{path.name} is neither a safetensors nor a readable PyTorch file: "
                f"{type(exc).__name__}: {_line(exc)}",
                where=WHERE,
                hint="it may be truncated or a Git LFS pointer; copy or download it again",
            ) from exc
        if not allow_pickle:
            raise StageError(
                f"{path.name} is a pickle that holds more than weights; loading it can run any "
                "code",
                where=WHERE,
                hint="save module.state_dict() instead, or, if you trust the file, set "
                "model.checkpoint.allow_pickle=true",
            ) from exc
    try:
        # The user allowed this file by name: model.checkpoint.allow_pickle.
        return torch.load(path, map_location="cpu", weights_only=False)  # noqa: TID251
    except Exception as exc:
        raise StageError(
            f"unpickling {path.name} raised {type(exc).__name__}: {_line(exc)}",
            where=WHERE,
            hint="the classes it was saved with must be importable; or save module.state_dict()",
        ) from exc


def _is_pickle(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(2)
    return head[:1] == b"\x80" or head == b"PK"  # a pickle protocol mark, or PyTorch's zip


def _line(exc: BaseException) -> str:
    return (str(exc).strip().splitlines() or [""])[0][:300]


def _select(content: object, key: str | None, path: Path) -> State:
    import torch

    walked = ""
    for part in key.split(".") if key else ():
        options = [str(name) for name in content] if isinstance(content, Mapping) else []
        if not isinstance(content, Mapping) or part not in content:
            raise StageError(
                f"{path.name} has no '{part}' at {walked or 'its top level'}; there are "
                f"{options[:8]}",
                where=f"{WHERE}.key",
                hint=nearest(part, options) or "give the dotted key of the state dict",
            )
        content = content[part]
        walked = f"{walked}.{part}".lstrip(".")
    if isinstance(content, torch.nn.Module):
        return content.state_dict()
    if isinstance(content, Mapping):
        others = [str(k) for k, v in content.items() if not isinstance(v, torch.Tensor)]
        if not others and content:
            return {str(name): tensor for name, tensor in content.items()}
        inside = [str(k) for k, v in content.items() if isinstance(v, Mapping)]
        raise StageError(
            f"{walked or path.name} is no state dict: it holds {[str(k) for k in content][:8]}",
            where=f"{WHERE}.key",
            hint=(
                f"set model.checkpoint.key={'.'.join(filter(None, (walked, _likely(inside))))}"
                if inside
                else "give the dotted key of the state dict"
            ),
        )
    raise StageError(
        f"{walked or path.name} holds {type(content).__name__}, not a state dict",
        where=f"{WHERE}.key",
        hint="give the dotted key of the state dict",
    )


def _likely(names: list[str]) -> str:
    return next((n for n in ("state_dict", "model_state_dict", "model") if n in names), names[0])


def _strip(state: State, prefix: str | None) -> State:
    if not prefix:
        return state
    if not any(name.startswith(prefix) for name in state):
        raise StageError(
            f"no name in the checkpoint starts with {prefix!r}: {sorted(state)[:3]}",
            where=f"{WHERE}.strip_prefix",
            hint="remove model.checkpoint.strip_prefix, or correct it",
        )
    return {name.removeprefix(prefix): tensor for name, tensor in state.items()}


def _fill(module: torch.nn.Module, state: State, *, strict: bool, name: str) -> None:
    own = module.state_dict(keep_vars=True)
    wrong = [
        f"{key} is {list(state[key].shape)}, the model needs {list(own[key].shape)}"
        for key in own
        if key in state and tuple(state[key].shape) != tuple(own[key].shape)
    ]
    problems = []
    missing: list[str] = []
    unexpected: list[str] = []
    if not wrong:
        try:
            result = module.load_state_dict(state, strict=False)
        except RuntimeError as exc:
            raise StageError(
                f"{name} does not fit the model: {_line(exc)}", where=WHERE, hint="check model.args"
            ) from exc
        # A tied parameter is stored once; its other names are filled with it.
        filled = {id(tensor) for key, tensor in own.items() if key in state}
        missing = [key for key in result.missing_keys if id(own.get(key)) not in filled]
        unexpected = list(result.unexpected_keys)
    else:
        missing = [key for key in own if key not in state]
        unexpected = [key for key in state if key not in own]
    nothing = not set(own) & set(state)
    if strict or nothing:
        problems += [f"{len(missing)} missing: {_few(missing)}"] if missing else []
        problems += [f"{len(unexpected)} unexpected: {_few(unexpected)}"] if unexpected else []
    problems += [f"{len(wrong)} of another shape: {_few(wrong)}"] if wrong else []
    if problems:
        raise StageError(
            f"{name} does not fit the model; {'; '.join(problems)}",
            where=WHERE,
            hint=_remedy(list(own), unexpected, wrong=bool(wrong)),
        )


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


def _remedy(own: list[str], unexpected: list[str], *, wrong: bool) -> str:
    for key in unexpected:
        for target in own:
            prefix = key.removesuffix(target)
            if prefix != key and prefix.endswith("."):
                return f"set model.checkpoint.strip_prefix={prefix}"
    if wrong:
        return "model.args must describe the network the checkpoint was trained with"
    return "check model.args, or set model.checkpoint.strict=false to ignore names that differ"


__all__ = ["is_safetensors", "load_checkpoint"]
