"""The property of remembered compositions: whatever is edited, recalled equals composed."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from orchestrator.config.remembered import recall
from orchestrator.errors import OrchestrateError
from orchestrator.store.index import Index
from tests.config.compose import write_conf
from tests.config.remembering import FP16, MINE, Words, fresh, keep, told

BODIES = {
    "precision/fp16": [FP16, FP16 + "keep_nodes: [z]\n", "name: nothing\n"],
    "precision/fp32": ["name: fp32\nkeep_nodes: [a]\n", "defaults: [tf32, _self_]\n"],
    "model/mine": [
        MINE,
        MINE + "batches: 2\n",
        "name: ${oc.env:QD_ONE}\n",
        MINE + "args: {x: '${oc.env:QD_ONE,none}'}\n",
    ],
    "model/digits": ["defaults: [minilm, _self_]\nname: digits\n", "name: [\n"],
    "orchestrate": [
        "defaults: [{model: mine}, _self_]\n",
        "hydra: {searchpath: ['file://extra']}\n",
    ],
    "cache/default": ["salt: ${oc.env:QD_TWO,none}\n", "salt: fixed\n"],
    "compare/default": ["{}\n"],
}
FOLDERS = ("conf", "conf", "extra", "first")
WRITE = st.tuples(
    st.just("write"),
    st.sampled_from(FOLDERS),
    st.sampled_from(sorted(BODIES)),
    st.integers(0, 3),
)
DELETE = st.tuples(
    st.just("delete"), st.sampled_from(FOLDERS), st.sampled_from(sorted(BODIES)), st.just(0)
)
SET = st.tuples(
    st.just("set"),
    st.sampled_from(("QD_ONE", "QD_TWO")),
    st.sampled_from(("digits", "minilm", "")),
    st.just(0),
)
DROP = st.tuples(st.just("drop"), st.sampled_from(FOLDERS), st.just(""), st.just(0))
EDITS = st.one_of(WRITE, WRITE, WRITE, DELETE, SET, DROP)
MIXED = Words(overrides=("model=mine", "precision=fp16"))
ASKED = st.sampled_from(
    [
        Words(),
        MIXED,
        Words(overrides=("precision=fp32,fp16",), multirun=True),
        Words(overrides=("model=mine",), config_dir="first"),
        Words(overrides=("model=mine,digits", "hydra.searchpath=['file://extra']"), multirun=True),
    ]
)


def apply(edit: tuple[str, str, str, int], work: Path) -> None:
    action, where, what, which = edit
    if action == "write":
        path = work / where / f"{what}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(BODIES[what][which % len(BODIES[what])])
    elif action == "delete":
        (work / where / f"{what}.yaml").unlink(missing_ok=True)
    elif action == "drop":
        shutil.rmtree(work / where, ignore_errors=True)
    elif action == "set" and what:
        os.environ[where] = what
    elif action == "set":
        os.environ.pop(where, None)


@contextmanager
def workplace() -> Iterator[Path]:
    here, kept = Path.cwd(), dict(os.environ)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name, "work")
        (work / "first").mkdir(parents=True)
        write_conf(work, {"model/mine": MINE})
        os.chdir(work)
        try:
            yield work
        finally:
            os.chdir(here)
            os.environ.clear()
            os.environ.update(kept)


def check(asked: Words, edits: list[tuple[str, str, str, int]]) -> None:
    with workplace() as work:
        index = Index(work.parent / "index")
        try:
            for edit in [("wait", "", "", 0), *edits]:
                apply(edit, work)
                found = recall(asked.request(), index, ExitStack())
                if found is not None:
                    assert told(found) == fresh(asked)
                    continue
                with suppress(OrchestrateError):
                    keep(asked, index)
        finally:
            index.close()


DRAWN = settings(
    max_examples=20, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck)
)
GIVEN = settings(DRAWN, phases=[Phase.explicit])


@pytest.mark.filterwarnings("ignore:provider=")
@example(asked=MIXED, edits=[("write", "conf", "precision/fp16", 1), ("drop", "conf", "", 0)])
@example(asked=MIXED, edits=[("write", "conf", "model/mine", 1)])
@example(
    asked=MIXED,
    edits=[
        ("set", "QD_ONE", "a", 0),
        ("write", "conf", "model/mine", 3),
        ("set", "QD_ONE", "b", 0),
    ],
)
@GIVEN
@given(asked=ASKED, edits=st.lists(EDITS))
def test_after_edits_what_is_recalled_is_what_is_composed(
    asked: Words, edits: list[tuple[str, str, str, int]]
) -> None:
    check(asked, edits)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:provider=")
@DRAWN
@given(asked=ASKED, edits=st.lists(EDITS, min_size=2, max_size=6))
def test_after_any_edits_what_is_recalled_is_what_is_composed(
    asked: Words, edits: list[tuple[str, str, str, int]]
) -> None:
    check(asked, edits)
