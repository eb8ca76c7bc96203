"""Experiment directories: made exclusively, filled with links into the store and with logs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from omegaconf import DictConfig, OmegaConf, open_dict, read_write

_MAX_NAME = 120


def make_exclusively(wanted: Path) -> Path:
    """Make *wanted*, or with a suffix ``-2``, ``-3``, … when another run has that name.

    Raises:
        OSError: the directory cannot be made.
    """
    wanted.parent.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        path = wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}")
        try:
            path.mkdir()
        except FileExistsError:
            number += 1
        else:
            return path.absolute()


def variant_name(overrides: list[str], fallback: str) -> str:
    """Return a directory name from a variant's overrides: ``precision=fp16,model=digits``."""
    text = ",".join(text.lstrip("+") for text in overrides) or fallback
    name = re.sub(r"[^\w.,=+-]+", "_", text).strip("._")
    return name[:_MAX_NAME] or fallback


def save_hydra(directory: Path, cfg: DictConfig, overrides: list[str]) -> None:
    """Write ``.hydra/``: configurations as they were written, so values of variables stay out."""
    folder = directory / str(cfg.hydra.output_subdir or ".hydra")
    folder.mkdir(exist_ok=True)
    task = cfg.copy()
    with read_write(task), open_dict(task):
        del task["hydra"]
    OmegaConf.save(task, folder / "config.yaml")
    hydra_only = OmegaConf.masked_copy(cfg, ["hydra"])
    OmegaConf.save(hydra_only, folder / "hydra.yaml")
    OmegaConf.save(OmegaConf.create(overrides), folder / "overrides.yaml")


def link_artifacts(directory: Path, artifacts: Mapping[str, Path]) -> None:
    """Link each artifact's read-only directory of the store under ``artifacts/``."""
    folder = directory / "artifacts"
    folder.mkdir(exist_ok=True)
    for name, target in artifacts.items():
        (folder / name).symlink_to(target)


def write_logs(directory: Path, logs: Mapping[str, str]) -> None:
    """Write the log of each action under ``logs/``."""
    folder = directory / "logs"
    folder.mkdir(exist_ok=True)
    for name, text in logs.items():
        file_name = re.sub(r"[^\w.-]+", "-", name)
        (folder / f"{file_name}.log").write_text(text)
