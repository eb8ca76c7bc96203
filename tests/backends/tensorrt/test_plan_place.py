"""Files and directories that stand for a plan, and what is said of those that do not."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.backends.tensorrt.plan_file import NAME, manifest_path
from orchestrator.backends.tensorrt.plan_place import find_plan
from orchestrator.errors import UsageError


def made(folder: Path, name: str = NAME) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).touch()
    manifest_path(folder / name).touch()
    return folder / name


@pytest.mark.parametrize("folder", ["artifacts/engine", "model", "engine"])
def test_a_directory_stands_for_its_plan(folder: str, tmp_path: Path) -> None:
    place = tmp_path / "place"
    (place / folder).parent.mkdir(parents=True)
    # As experiment directories link to the store.
    (place / folder).symlink_to(made(tmp_path / "store").parent)
    assert find_plan(place) == place / folder / NAME
    assert find_plan(place / folder) == place / folder / NAME


def test_a_file_is_itself(tmp_path: Path) -> None:
    assert find_plan(made(tmp_path, "any.name")) == tmp_path / "any.name"


def test_a_link_to_a_plan_has_the_manifest_of_its_target(tmp_path: Path) -> None:
    plan = made(tmp_path / "store")
    link = tmp_path / "latest.plan"
    link.symlink_to(plan)
    assert find_plan(link) == plan.resolve()
    assert find_plan(tmp_path) == plan.resolve()
    manifest_path(link).touch()
    assert find_plan(link) == link


def test_one_plan_of_any_name(tmp_path: Path) -> None:
    plan = made(tmp_path, "resnet.engine")
    assert find_plan(tmp_path) == plan
    made(tmp_path, "other.plan")
    with pytest.raises(UsageError, match="holds no TensorRT plan") as caught:
        find_plan(tmp_path)
    assert caught.value.hint == f"it holds 2 of them: name one, such as {tmp_path / 'other.plan'}"


def link(path: Path, target: str) -> None:
    path.parent.mkdir(parents=True)
    path.symlink_to(target)


NO_PLANS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "nothing": (lambda place: None, "No such file or directory"),
    "an empty directory": (lambda place: place.mkdir(), "holds no TensorRT plan"),
    "a directory called so": (lambda place: (place / NAME).mkdir(parents=True), "holds no"),
    "a pipe": (os.mkfifo, "is no regular file"),
    "a loop of links": (lambda place: place.symlink_to(place), "symbolic link"),
    "an engine that was removed": (
        lambda place: link(place / "artifacts" / "engine", "gone"),
        "its engine is not in the store any more",
    ),
    "a session": (
        lambda place: link(place / "artifacts" / "session", "."),
        "it was built for ONNX Runtime",
    ),
    "a sweep": (
        lambda place: made(place / "precision=fp16" / "artifacts" / "engine"),
        "name one of the 1 variants in it, such as {place}/precision=fp16",
    ),
}


@pytest.mark.parametrize("name", NO_PLANS)
def test_what_names_no_plan_is_said(name: str, tmp_path: Path) -> None:
    make, message = NO_PLANS[name]
    place = tmp_path / "place"
    make(place)
    with pytest.raises(UsageError) as caught:
        find_plan(place)
    assert caught.value.where == str(place)
    assert message.format(place=place) in caught.value.render()
