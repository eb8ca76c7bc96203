"""The command called in this process: quicker, where a test is not about the process."""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Mapping

import pytest

from orchestrator.cli.main import main
from tests.command import Ran, Workplace


def call(place: Workplace, *words: str, env: Mapping[str, str] | None = None) -> Ran:
    """Run ``orchestrate WORDS`` in a workplace; return how it ended."""
    out, err = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as changed,
        contextlib.chdir(place.directory),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        for name, value in place.environment(env).items():
            changed.setenv(name, value)
        changed.setattr(tempfile, "tempdir", None)
        try:
            code = main(words)
        except SystemExit as end:  # --help and the like
            code = int(end.code or 0)
    return Ran(code=code, out=out.getvalue(), err=err.getvalue())
