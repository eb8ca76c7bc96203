from __future__ import annotations

import pickle  # noqa: TID251 - makes the harmful file that must not be loaded
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from orchestrator.errors import StageError
from orchestrator.modules import calls
from orchestrator.modules import loading as models
from orchestrator.stages.base import Context
from tests.modules import nets
from tests.stage_context import OpenObservations

CHECKPOINT = {"key": None, "strip_prefix": None, "strict": True, "allow_pickle": False}


def load(
    factory: str,
    args: Mapping[str, Any] | None = None,
    path: Path | None = None,
    **options: Any,
) -> torch.nn.Module:
    return models.load_module(
        Context(
            params={
                "factory": f"tests.modules.nets:{factory}",
                "args": dict(args or {}),
                "checkpoint": {**CHECKPOINT, **options} if path else None,
            },
            inputs={},
            outputs={},
            scratch=Path(),
            paths={"checkpoint": path} if path else {},
            observe=OpenObservations(),
            progress=lambda done, text="": None,
            log=lambda line: None,
        )
    )


def state(width: int = 3, prefix: str = "") -> dict[str, torch.Tensor]:
    return {
        f"{prefix}fc.weight": torch.full((width, 4), 2.0),
        f"{prefix}fc.bias": torch.full((width,), 1.0),
    }


def weight(module: torch.nn.Module) -> float:
    return float(module.get_parameter("fc.weight")[0, 0])


def refused(match: str, *args: Any, **kwargs: Any) -> StageError:
    with pytest.raises(StageError, match=match) as caught:
        load(*args, **kwargs)
    assert caught.value.hint
    return caught.value


@pytest.mark.parametrize("factory", ["Linear", "make_linear"])
def test_random_weights_repeat_and_the_module_is_ready(factory: str) -> None:
    first, second = (load(factory, {"width": 2}) for _ in range(2))
    assert torch.equal(first.get_parameter("fc.weight"), second.get_parameter("fc.weight"))
    assert not first.training
    assert not any(p.requires_grad for p in first.parameters())


def test_factories_that_do_not_work_are_explained() -> None:
    assert refused("cannot be called with", "Linear", {"widht": 2}).hint == "did you mean 'width'?"
    refused("missing a required argument: 'width'", "make_linear")
    refused("returned NoneType", "make_nothing")
    error = refused("raised RuntimeError: no such dataset", "explode")
    assert "nets.py:" in error.message
    refused("is int, which cannot be called", "NUMBER")


def test_safetensors_are_found_by_content(tmp_path: Path) -> None:
    save_file(state(), tmp_path / "weights.bin")
    assert weight(load("Linear", path=tmp_path / "weights.bin")) == 2.0


def test_a_pytorch_file_with_a_dotted_key_and_a_prefix(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save({"epoch": 3, "ema": {"model": state(prefix="module.")}}, path)
    module = load("Linear", path=path, key="ema.model", strip_prefix="module.")
    assert weight(module) == 2.0
    assert "key=ema" in refused("is no state dict", "Linear", path=path).hint
    assert refused("no 'emma'", "Linear", path=path, key="emma.model").hint == "did you mean 'ema'?"
    error = refused("does not fit", "Linear", path=path, key="ema.model")
    assert error.hint == "set model.checkpoint.strip_prefix=module."
    refused("starts with 'net.'", "Linear", path=path, key="ema.model", strip_prefix="net.")


def test_a_checkpoint_that_does_not_fit_lists_the_differences(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file(state(width=5), path)
    error = refused("2 of another shape", "Linear", path=path)
    assert "fc.weight is [5, 4], the model needs [3, 4]" in error.message
    assert error.where == "model.checkpoint"
    save_file({"fc.weight": torch.ones(3, 4), "head.bias": torch.ones(2)}, path)
    error = refused("does not fit", "Linear", path=path)
    assert "1 missing: fc.bias" in error.message
    assert "1 unexpected: head.bias" in error.message
    assert weight(load("Linear", path=path, strict=False)) == 1.0
    save_file({"head.bias": torch.ones(2)}, path)
    refused("2 missing", "Linear", path=path, strict=False)


def test_a_tied_parameter_is_stored_once(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file({"first.weight": torch.full((4, 4), 2.0)}, path)
    module = load("Tied", path=path)
    assert float(module.get_parameter("second.weight")[0, 0]) == 2.0


def test_a_pickled_module_is_refused_unless_allowed_by_name(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    module = nets.Linear()
    torch.nn.init.constant_(module.fc.weight, 2.0)
    torch.save(module, path)
    error = refused("can run any code", "Linear", path=path)
    assert "model.checkpoint.allow_pickle=true" in error.hint
    assert weight(load("Linear", path=path, allow_pickle=True)) == 2.0


class _Harmful:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_refusing_a_pickle_does_not_run_it(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    path = tmp_path / "model.pt"
    path.write_bytes(pickle.dumps(_Harmful(mark)))
    refused("can run any code", "Linear", path=path)
    torch.save({"w": _Harmful(mark)}, path)
    refused("can run any code", "Linear", path=path)
    assert not mark.exists()


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_damaged_and_missing_files_are_named(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"w.{suffix}"
    refused("does not exist", "Linear", path=path)
    if suffix == "pt":
        torch.save(state(), path)
    else:
        save_file(state(), path)
    path.write_bytes(path.read_bytes()[:-20])
    refused("w.pt is|w.safetensors is", "Linear", path=path)
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    assert "Git LFS" in refused("neither a safetensors", "Linear", path=path).hint


@pytest.mark.parametrize("kind", ["list", "nested", "dataclass"])
def test_structured_outputs_are_flattened_in_order(kind: str) -> None:
    x = torch.ones(2, 4)
    found = calls.call(nets.Structured(kind), {"x": x}, ["first", "second"])
    assert torch.equal(found[0], x)
    assert torch.equal(found[1], x + 1)


def test_named_outputs_are_read_by_name() -> None:
    found = calls.call(nets.Structured("dataclass"), {"x": torch.ones(2, 4)}, ["b"])
    assert torch.equal(found[0], torch.full((2, 4), 2.0))


def test_an_output_that_is_no_tensor_is_named() -> None:
    with pytest.raises(StageError, match="output 1 of the model is int"):
        calls.call(nets.Structured("number"), {"x": torch.ones(1)}, ["a", "b"])


def test_inputs_go_by_keyword_when_forward_has_their_names() -> None:
    ids, mask = torch.ones(1, 2, dtype=torch.int64), torch.zeros(1, 2, dtype=torch.int64)
    module = nets.Encoder().eval()
    assert calls.by_keyword(module, ["mask", "ids"])
    assert not calls.by_keyword(module, ["a", "b"])
    named = calls.call(module, {"mask": mask, "ids": ids}, ["state", "pooled"])
    placed = calls.call(module, {"a": ids, "b": mask}, ["state", "pooled"])
    assert all(torch.equal(a, b) for a, b in zip(named, placed, strict=True))


def test_a_wrong_input_name_lists_the_parameters_of_forward() -> None:
    with pytest.raises(StageError, match=r"forward\(ids, mask\)") as caught:
        calls.call(
            nets.Encoder(),
            {"ids": torch.ones(1), "makes": torch.ones(1), "z": torch.ones(1)},
            ["a"],
        )
    assert caught.value.hint == "did you mean 'mask'?"
