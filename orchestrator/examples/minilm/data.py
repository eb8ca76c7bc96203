"""Real sentences as token ids, for the sentence encoder."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import StageError
from orchestrator.examples.minilm.package import model_folder
from orchestrator.locations import resolve

FOLDER: Final = Path(__file__).parent
PADDING_ID: Final = 0


def sentences(
    *, dims: Mapping[str, int], offset: int, seed: int, file: str = "sentences.txt"
) -> dict[str, NDArray[np.int64]]:
    """Return ``dims["batch"]`` sentences from number *offset* on, going round after the last.

    Args:
        dims: Sizes of ``batch`` and ``length``.
        offset: Number of the first sentence, in the order that *seed* gives.
        seed: 0 keeps the file's order; any other value permutes the sentences.
        file: Text file with one sentence a line; empty lines and lines starting with ``#`` are
            skipped. A relative path starts in this package's folder, which has ``sentences.txt``
            and ``calibration.txt``.

    Returns:
        ``input_ids`` and ``attention_mask``, ``[batch, length]`` int64. A sentence of more tokens
        than ``length`` is cut (the final ``[SEP]`` stays); a shorter one is padded on the right,
        and its mask is 0 there.

    Raises:
        StageError: when the package with the tokenizer is missing, or the file has no sentence.
    """
    lines = read_lines(file)
    order = np.random.default_rng(seed).permutation(len(lines)) if seed else range(len(lines))
    batch, length = dims["batch"], dims["length"]
    chosen = [lines[order[(offset + index) % len(lines)]] for index in range(batch)]
    tokenizer = _tokenizer()
    tokenizer.enable_truncation(length)
    input_ids = np.full((batch, length), PADDING_ID, dtype=np.int64)
    attention_mask = np.zeros((batch, length), dtype=np.int64)
    for row, sentence in enumerate(chosen):
        ids = tokenizer.encode(sentence).ids
        input_ids[row, : len(ids)] = ids
        attention_mask[row, : len(ids)] = 1
    return {"input_ids": input_ids, "attention_mask": attention_mask}


def read_lines(file: str) -> list[str]:
    """Return the sentences of *file*; see :func:`sentences`."""
    path = resolve(file, FOLDER)
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as exc:
        raise StageError(
            f"'{path}' cannot be read: {exc}", where="file", hint="name a text file"
        ) from exc
    found = [line for line in lines if line and not line.startswith("#")]
    if not found:
        raise StageError(f"'{path}' has no sentence", where="file", hint="write one a line")
    return found


@cache
def _tokenizer() -> Any:
    path = model_folder() / "tokenizer.json"
    from tokenizers import Tokenizer

    # Read by Python, not by native code, so that the file is seen to be an input.
    tokenizer = Tokenizer.from_str(path.read_text(encoding="utf-8"))
    tokenizer.no_padding()
    return tokenizer
