from __future__ import annotations

import ast
import json
import random
import string
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.store import digests

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    # surrogates come from file names that are no UTF-8
    | st.text(st.characters(exclude_categories=[])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def shuffled(value: Any, seed: int) -> Any:
    """Return an equal value whose dictionaries were filled in another order."""
    if isinstance(value, dict):
        items = list(value.items())
        random.Random(seed).shuffle(items)  # noqa: S311  # no secret
        return {key: shuffled(item, seed) for key, item in items}
    if isinstance(value, list):
        return [shuffled(item, seed) for item in value]
    return value


@given(JSON, st.integers())
def test_the_order_of_a_dictionary_changes_nothing(value: Any, seed: int) -> None:
    assert digests.canonical(shuffled(value, seed)) == digests.canonical(value)


@given(JSON)
def test_canonical_json_is_ascii_and_keeps_the_value(value: Any) -> None:
    text = digests.canonical(value)
    assert text.isascii()
    assert json.loads(text) == value


@given(JSON, JSON)
def test_different_values_have_different_digests(one: Any, other: Any) -> None:
    # 1, 1.0 and True are equal in Python, but not in JSON.
    same = digests.canonical(one) == digests.canonical(other)
    assert (digests.of_json("kind", one) == digests.of_json("kind", other)) is same
    if repr(one) == repr(other):
        assert same


@given(JSON)
def test_two_kinds_never_share_a_digest(value: Any) -> None:
    assert digests.of_json("tree", value) != digests.of_json("action", value)


def test_nan_is_no_key() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        digests.canonical({"a": float("nan")})


@given(st.binary(max_size=64), st.integers(0, 3))
def test_a_file_has_the_digest_of_its_bytes(tmp_path_factory: Any, data: bytes, extra: int) -> None:
    path: Path = tmp_path_factory.mktemp("file") / "data"
    data = data * (1 + extra * (digests.CHUNK_BYTES // 64))
    path.write_bytes(data)
    assert digests.of_file(path) == digests.of_bytes(data)


SOURCE = '''\
import os


class Net:
    """A network."""

    width = 3

    def forward(self, x):
        return x * self.width
'''


def digest_of(tmp_path: Path, source: str | bytes) -> str:
    path = tmp_path / "module.py"
    path.write_bytes(source if isinstance(source, bytes) else source.encode())
    return digests.of_source(path)


@given(comments=st.lists(st.text(string.printable.replace("\n", "").replace("\r", "")), max_size=6))
def test_comments_and_blank_lines_change_nothing(
    tmp_path_factory: Any, comments: list[str]
) -> None:
    tmp_path: Path = tmp_path_factory.mktemp("source")
    lines = SOURCE.splitlines(keepends=True)
    for number, text in enumerate(comments):
        printable = "".join(character for character in text if character.isprintable())
        lines.insert((number * 3) % 4, f"# {printable}\n\n")
    assert digest_of(tmp_path, "".join(lines)) == digest_of(tmp_path, SOURCE)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("width = 3", "width = 4"),
        ("x * self", "x + self"),
        ("forward", "froward"),
        ("A net", "B net"),
    ],
)
def test_an_edit_changes_the_digest(tmp_path: Path, old: str, new: str) -> None:
    assert digest_of(tmp_path, SOURCE.replace(old, new)) != digest_of(tmp_path, SOURCE)


@pytest.mark.parametrize("source", [b"def broken(:\n", b"\xff\xfe\x00", b"a = '\x00'\n"])
def test_what_is_no_python_is_digested_by_its_bytes(tmp_path: Path, source: bytes) -> None:
    with pytest.raises((SyntaxError, ValueError)):
        ast.parse(source)
    assert digest_of(tmp_path, source) == digests.of_bytes(source)
