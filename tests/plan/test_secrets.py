from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.config.purity import environment_names
from orchestrator.plan.secrets import Secrets
from orchestrator.store import digests
from tests.plan.variants import compose, keys, plan
from tests.store.test_digests import JSON

TOKEN = "correct-horse-battery"  # noqa: S105  # the test's own
WORDS = ("+model.args.token=${oc.env:THE_TOKEN}",)


# None of these characters is in what a secret is replaced by.
SECRETS = st.text("ghijklGHIJKL€Ä_!", min_size=4)


@given(JSON, SECRETS, SECRETS)
def test_no_text_keeps_a_secret(value: object, secret: str, other: str) -> None:
    hidden = Secrets({"NAME": secret, "OTHER": other}).hide(
        {"a": [value, f"x{secret}y", secret, f"{other}{secret}{other}"]}
    )
    assert [text for text in _texts(hidden) if secret in text or other in text] == []


def _texts(value: object) -> list[str]:
    if isinstance(value, dict):
        return [text for item in value.values() for text in _texts(item)]
    if isinstance(value, list):
        return [text for item in value for text in _texts(item)]
    return [value] if isinstance(value, str) else []


def test_a_secret_counts_in_keys_and_stands_in_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THE_TOKEN", TOKEN)
    assert environment_names(compose(*WORDS).hydra) == {"THE_TOKEN"}
    before = keys(*WORDS)
    with plan(*WORDS) as planned:
        for action in planned.graph.actions.values():
            if not action.inputs:
                assert TOKEN not in json.dumps(planned.resolver.resolve(action, {}).material)
    monkeypatch.setenv("THE_TOKEN", "another")
    after = keys(*WORDS)
    changed = {role for role in before if before[role] != after[role]}
    assert changed == {"export", "reference", "reference task"}


def digest_of(text: str) -> str:
    return digests.of_bytes(text.encode())


def test_several_values_and_short_ones() -> None:
    secrets = Secrets({"A": "abcd", "B": "abcdef", "C": "xy", "D": ""})
    assert secrets.hide_text("in abcdef and abcd") == (
        f"in <env B sha256:{digest_of('abcdef')}> and <env A sha256:{digest_of('abcd')}>"
    )
    assert secrets.hide_text("galaxy") == "galaxy"
    assert secrets.hide_text("xy").startswith("<env C sha256:")
    assert secrets.hide({"n": 3, "t": None}) == {"n": 3, "t": None}


def test_the_scratch_of_a_session_is_private(tmp_path: Path) -> None:
    """Requests in it hold the values that workers need."""
    with plan() as planned:
        assert planned.scratch.stat().st_mode & 0o077 == 0
