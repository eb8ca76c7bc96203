"""Models that cannot pass: each fails alone, with one message that says what, where and why."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.conftest import BRIEF, FAILING, PASSING, Site

# What a message must hold: the thing that is wrong, and where.
MESSAGES: Mapping[str, tuple[str, ...]] = {
    "misfit": ("model.checkpoint", "does not fit", "conv.weight"),
    "pickled": ("pickled.pt", "can run any code", "allow_pickle=true"),
    "not_a_number": ("scores", "PyTorch model itself gives NaN"),
    "constant": ("scores", "hardly varies across inputs", "min_variation"),
    "untranslatable": ("eig", "module 'spectrum'", "networks.py"),
    "small_batches": ("model.dims", "8"),  # export and reference may both find it
    "leaves": ("sys.exit('enough')",),
    "wrong_input": ("['x']", "declared are ['image']"),
    "truncated": ("truncated.onnx", "100 bytes"),
    "leaving": ("outside the model's folder", "../outside.bin"),
}


def failures(gallery: Site, model: str) -> list[str]:
    found: list[dict[str, Any]] = gallery.built.variant(f"model={model}")["failures"]
    return [f"{one['where']}: {one['message']} {one['hint']}" for one in found]


def test_the_table_of_messages_is_complete() -> None:
    assert set(MESSAGES) == set(FAILING)


@pytest.mark.parametrize("model", FAILING)
def test_the_message_says_what_and_where(gallery: Site, model: str) -> None:
    (message,) = failures(gallery, model)

    for part in MESSAGES[model]:
        assert part in message
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize("model", FAILING)
def test_a_failed_variant_is_written_down(gallery: Site, model: str) -> None:
    manifest = gallery.built.variant(f"model={model}")
    directory = Path(manifest["directory"])

    assert json.loads((directory / "manifest.json").read_text())["status"] == "failed"
    assert manifest["summary"]["passed"] is False
    assert (directory / ".hydra" / "config.yaml").is_file()


@pytest.mark.parametrize("model", PASSING)
def test_the_others_pass(gallery: Site, model: str) -> None:
    assert gallery.built.variant(f"model={model}")["status"] == "passed"


def test_the_command_fails_without_a_traceback(gallery: Site) -> None:
    assert gallery.built.code == 1
    assert "Traceback" not in gallery.built.text
    assert "internal error" not in gallery.built.text


def test_a_plain_build_names_each_failure(gallery: Site) -> None:
    ran = gallery.place.run("-m", "model=tiny,constant", *BRIEF)

    assert ran.code == 1
    assert "FAILED model=constant" in ran.err
    assert "FAILED model=tiny" not in ran.err
    assert "Traceback" not in ran.text


def test_what_a_factory_prints_is_in_its_log_and_nowhere_else(gallery: Site) -> None:
    manifest = gallery.built.variant("model=talks")
    log = (Path(manifest["directory"]) / "logs" / "export.log").read_text()

    assert "line 19999 of what nobody asked for" in log
    assert "nobody asked for" not in gallery.built.text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("exporter.opset=99", ("exporter.opset: opset 99 is not supported", "set exporter.opset")),
        ("+model.samples.arrays.picture=test_images", ("picture", "image")),
    ],
)
def test_a_wrong_request_is_one_line(demo: Site, word: str, says: tuple[str, ...]) -> None:
    ran = demo.place.run("-q", word, "benchmark=none")
    message, *more = ran.err.strip().splitlines()

    assert ran.code == 1
    assert message.startswith("FAILED ")
    for part in says:
        assert part in ran.err
    assert [line[:4] for line in more] in (["  → ", "  lo"], ["  lo"])
    assert "Traceback" not in ran.text
    assert demo.place.whole()


def test_the_store_is_whole(gallery: Site) -> None:
    assert gallery.place.whole()
