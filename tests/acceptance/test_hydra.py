"""Hydra's own features around the one graph: callbacks, logging, experiments, secrets, ./conf."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.acceptance.conftest import QUICK, Site
from tests.command import Workplace

_CALLBACK = """
from pathlib import Path
from hydra.experimental.callback import Callback

class Notes(Callback):
    def _note(self, text):
        with Path("notes.txt").open("a") as file:
            file.write(text + "\\n")
    def on_run_start(self, config, **kwargs):
        self._note("run start")
    def on_run_end(self, config, **kwargs):
        self._note("run end")
    def on_multirun_start(self, config, **kwargs):
        self._note("multirun start")
    def on_multirun_end(self, config, **kwargs):
        self._note("multirun end")
    def on_job_start(self, config, **kwargs):
        self._note(f"job start {config.precision.name}")
    def on_job_end(self, config, job_return, **kwargs):
        passed = job_return.return_value.passed
        self._note(f"job end {config.precision.name} {passed} {job_return.status.name}")
"""
_SECRET = "correct-horse-battery"  # noqa: S105  # what must not be found anywhere


@pytest.fixture
def digits(demo: Site, copy_of: Callable[[Site], Workplace]) -> Workplace:
    """A working directory of its own beside a store in which the demo is built."""
    return copy_of(demo)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_callbacks_are_called(digits: Workplace) -> None:
    write(digits.directory / "notes.py", _CALLBACK)
    callback = "+hydra.callbacks.notes._target_=notes.Notes"
    path = {"PYTHONPATH": str(digits.directory)}
    single = digits.run("precision=fp16", callback, *QUICK, env=path)
    notes = digits.directory / "notes.txt"
    assert single.code == 0, single.text
    assert notes.read_text().splitlines() == [
        "run start",
        "job start fp16",
        "job end fp16 True COMPLETED",
        "run end",
    ]
    notes.unlink()
    sweep = digits.run("-m", "precision=fp32,int8", callback, *QUICK, env=path)
    assert sweep.code == 0, sweep.text
    assert notes.read_text().splitlines() == [
        "multirun start",
        "job start fp32",
        "job start int8",
        "job end fp32 True COMPLETED",
        "job end int8 True COMPLETED",
        "multirun end",
    ]


def test_an_experiment_s_own_matrix_sweeps_without_m(digits: Workplace) -> None:
    built = digits.build("+experiment=digits_precisions", *QUICK)

    assert built.code == 0, built.text
    assert [one["config"]["precision"]["name"] for one in built.variants] == [
        "fp32",
        "fp16",
        "int8",
    ]
    assert built.ran() == set()


def test_job_logging_is_the_user_s_choice(digits: Workplace) -> None:
    handler = "hydra.job_logging.handlers.file.filename=${hydra.runtime.output_dir}/mine.log"
    built = digits.build("precision=fp32", handler, *QUICK)
    directory = Path(built.variants[0]["directory"])

    assert built.code == 0, built.text
    assert "[orchestrate][INFO]" in (directory / "mine.log").read_text()


def test_a_user_s_conf_works_beside_the_built_in_one(digits: Workplace) -> None:
    write(
        digits.directory / "conf" / "compare" / "strict.yaml",
        "defaults: [default, _self_]\nname: strict\nint8: {snr_db: 90.0}\n",
    )
    built = digits.build("-m", "precision=fp32,int8", "compare=strict", *QUICK)

    assert built.code == 1
    assert [one["status"] for one in built.variants] == ["passed", "failed"]
    # And it goes before a built-in file of the same name.
    write(digits.directory / "conf" / "benchmark" / "none.yaml", "enabled: true\n")
    assert "enabled: true" in digits.run("--cfg", "job", "benchmark=none").out


def test_a_configuration_directory_of_the_command_line(digits: Workplace) -> None:
    write(
        digits.directory / "more" / "benchmark" / "brief.yaml",
        "enabled: true\nwarmup_ms: 1.0\nmeasure_ms: 1.0\nmin_runs: 3\n",
    )
    built = digits.build("--config-dir", "more", "benchmark=brief", "precision=fp32")

    assert built.code == 0, built.text
    assert built.ran() == set()  # the same protocol as the demo's


def test_a_secret_is_written_nowhere(digits: Workplace) -> None:
    words = ("model.name=${oc.env:MODEL_NAME}", "precision=fp32", *QUICK)
    env = {"MODEL_NAME": _SECRET}
    texts = [
        digits.build(*words, env=env),
        digits.run("plan", *words, env=env),
        digits.run("-m", "precision=fp32,fp16", *words[::2], "benchmark=none", env=env),
    ]

    assert [text.code for text in texts] == [0, 0, 0], texts[-1].text
    for text in texts:
        assert _SECRET not in text.text
    roots = (digits.directory, digits.cache)
    names = [path for root in roots for path in root.rglob("*")]
    files = [path for path in names if path.is_file() and not path.is_symlink()]
    assert len(files) > 100
    assert [path for path in files if _SECRET.encode() in path.read_bytes()] == []
    assert [path for path in names if _SECRET in path.name] == []


def test_a_secret_in_the_model_s_arguments_counts_in_the_key(gallery: Site) -> None:
    plan = ("plan", "--json", "model=tiny", "+model.args.eps='${oc.decode:${oc.env:EPS}}'")
    keys = []
    for eps in ("0.125", "0.25"):
        ran = gallery.place.run(*plan, env={"EPS": eps})
        assert ran.code == 0, ran.text
        (export,) = [one for one in ran.json()["actions"] if one["stage"] == "export"]
        keys.append(export["key"])

    assert keys[0] != keys[1]
