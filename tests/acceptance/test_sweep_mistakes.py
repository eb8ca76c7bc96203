"""What can be wrong with a sweep: one message that says what, where and what to do; nothing runs.

In this process, as the command does it. What is wrong with a rule or a value by itself is tested
beside the code that finds it.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from orchestrator.cli.main import main
from tests.backends.tensorrt.standin.project import make_project
from tests.command import Workplace

USAGE, STORE = 2, 3
SWEEP = ("-m", "model=net", "benchmark=none", "precision=fp32,fp16")
MINE = "+experiment=mine"
GPU = ("-m", "model=net", "target=tensorrt", "precision=fp32,fp16")
GLOBAL = "# @package _global_\n"


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """Words on the command line, files in ``conf/``, and what the first line and the hint hold."""

    words: tuple[str, ...]
    says: str
    hint: str = ""
    files: Mapping[str, str | bytes] = field(default_factory=dict)
    code: int = USAGE


def mistake(*words: str, says: str, hint: str = "", code: int = USAGE) -> Mistake:
    """Return one on the command line."""
    return Mistake(words=words, says=says, hint=hint, code=code)


def swept(*words: str, says: str, hint: str = "", code: int = USAGE) -> Mistake:
    """Return one on the command line of a sweep that is right without *words*."""
    return mistake(*SWEEP, *words, says=says, hint=hint, code=code)


def declared(text: str | bytes, *, says: str, hint: str = "") -> Mistake:
    """Return one in the file of an experiment."""
    head: str | bytes = GLOBAL if isinstance(text, str) else GLOBAL.encode()
    content = head + text  # type: ignore[operator]  # both text, or both bytes
    return Mistake(words=(MINE,), says=says, hint=hint, files={"experiment/mine": content})


def params(text: str, *, says: str, hint: str = "") -> Mistake:
    """Return one in an experiment's ``hydra.sweeper.params``."""
    return declared(f"hydra: {{sweeper: {{params: {text}}}}}\n", says=says, hint=hint)


MISTAKES = {
    # What is swept over.
    "unknown group": swept(
        "presicion=fp32,fp16", says="presicion", hint="did you mean 'precision'?"
    ),
    "unknown option": swept(
        "exporter=dynamo,dinamo", says="exporter: there is no 'dinamo'", hint="'dynamo'?"
    ),
    "unknown key": swept(
        "exporter.opsett=18,20", says="exporter.opsett", hint="did you mean 'opset'?"
    ),
    "value of a wrong type": swept(
        "exporter.opset=18,many",
        says="exporter.opset (command line): expected a valid integer; got 'many'",
    ),
    "unknown group in a matrix": params(
        "{presicion: 'fp32,fp16'}",
        says="hydra.sweeper.params.presicion: there is no group or field 'presicion'",
        hint="did you mean 'precision'?",
    ),
    "unknown option in a matrix": params(
        "{precision: 'fp32,fp61'}", says="precision: there is no 'fp61'", hint="'fp16'?"
    ),
    "a comma too many": mistake(
        "-m",
        "precision=fp32,",
        says="override 'precision=fp32,': cannot be read: it ends too",
    ),
    "a bracket too many": mistake(
        "-m", "precision=fp32}", says="cannot be read: '}' is not expected"
    ),
    "unknown function": mistake(
        "-m",
        "precision=chioce(fp32)",
        says="unknown function 'chioce'",
        hint="bool, choice",
    ),
    # Matrices without variants, or with too many.
    "empty matrix": params("{}", says="hydra.sweeper.params: is empty", hint="leave it out"),
    "parameters that are a list": params(
        "[precision]", says="hydra.sweeper.params: expected groups and fields", hint="for example"
    ),
    "no values": params("{precision: []}", says="params.precision: has no values"),
    "all excluded": swept(
        "hydra.sweeper.exclude=[{model: net}]",
        says="hydra.sweeper.exclude: the rules leave none of 2 variants",
        hint="exclude[0] (model=net): 2 variants removed",
    ),
    "a thousand million": swept(
        "model.dims.batch.opt=range(0,1000)",
        "exporter.opset=range(0,1000)",
        "model.samples.seed=range(0,1000)",
        says="2 × 1000 × 1000 × 1000 = 2000000000 combinations are more than 10000",
        hint="hydra.sweeper.include",
    ),
    # Where it goes.
    "a file in the directory's place": swept(
        "hydra.sweep.dir=net.onnx",
        says="net.onnx: the directory cannot be made (there is a file: net.onnx)",
        hint="hydra.sweep.dir",
    ),
    "a directory below a file": swept(
        "hydra.sweep.dir=net.onnx/below",
        says="net.onnx/below: the directory cannot be",
    ),
    "a directory that cannot be written": swept(
        "hydra.sweep.dir=/proc/none/here", says="/proc/none/here: the directory cannot be"
    ),
    "a store below a file": swept(
        "cache.dir=net.onnx/a",
        says="store cannot be used",
        hint="cache.dir",
        code=STORE,
    ),
    "one directory for two variants": swept(
        "hydra.sweep.subdir=same", says="hydra.sweep.subdir", hint="leave it out"
    ),
    "a sweep over the directory": swept(
        "hydra.sweep.dir=a,b", says="override 'hydra.sweep.dir=a,b'", hint="give one value"
    ),
    "a matrix over the directory": params(
        "{hydra.sweep.dir: 'a,b'}", says="params.hydra.sweep.dir", hint="beside hydra.sweeper"
    ),
    # Interpolations and defaults lists.
    "interpolations in a circle": swept(
        "model.name=${experiment.name}",
        "experiment.name=${model.name}",
        says="model.name (command line): recursive interpolation",
        hint="mend the interpolation",
    ),
    "interpolation of nothing": swept(
        "model.name=${nowhere.at.all}",
        says="model.name (command line): interpolation key 'nowhere.at.all' not found",
        hint="mend the interpolation",
    ),
    "interpolation of nothing in a matrix": params(
        "{precision: '${nowhere}'}", says="hydra.sweeper.params: interpolation key", hint="mend"
    ),
    "a matrix that is itself": params(
        "{precision: '${hydra.sweeper.params.precision}'}",
        says="hydra.sweeper.params: recursive interpolation",
        hint="mend",
    ),
    "a variable that is not set": swept(
        "model.name=${oc.env:NO_SUCH_VARIABLE}",
        says="model.name (command line): environment variable 'NO_SUCH_VARIABLE' not found",
    ),
    "defaults in a circle": declared(
        "defaults: [mine]\n", says="lead back to where they began", hint="name each other"
    ),
    "an unknown group in a defaults list": declared(
        "defaults: [{override /modle: net}]\n",
        says="modle (experiment/mine.yaml): unknown key",
        hint="did you mean 'model'?",
    ),
    # Files.
    "no package": Mistake(
        words=(MINE,),
        says="experiment.hydra (conf/experiment/mine.yaml): unknown key 'hydra'",
        hint="needs '# @package _global_' as its first line",
        files={"experiment/mine": "hydra: {sweeper: {params: {precision: 'fp32,fp16'}}}\n"},
    ),
    "no YAML": declared("hydra: [\n", says="conf/experiment/mine.yaml, line 3: is no YAML"),
    "tabs": declared("hydra:\n\tsweeper:\n", says="mine.yaml, line 3", hint="indent with spaces"),
    "a key twice": declared(
        "hydra: {sweeper: {params: {precision: fp32, precision: fp16}}}\n",
        says="line 2: is no YAML: found duplicate key precision",
        hint="leave one of them out",
    ),
    "no UTF-8": declared(b"# caf\xe9\n", says="line 2: is no UTF-8", hint="as UTF-8"),
    "no text": declared(b"a: \0\n", says="mine.yaml: is no YAML: the character at", hint="remove"),
    "a list": declared("- 1\n", says="experiment/mine.yaml: is a list, but a configuration is a"),
    "a sweeper that is a number": declared(
        "hydra: {sweeper: 5}\n", says="hydra.sweeper: expected settings", hint="defaults list"
    ),
    # Who runs it, and on what.
    "no workers": swept(
        "executor.workers=0", says="executor.workers (command line): expected a number"
    ),
    "a time limit below 0": swept(
        "executor.timeout_s=-5", says="executor.timeout_s (command line): expected a number"
    ),
    "a sweep over the executor": swept(
        "executor.workers=1,2", says="executor.workers: differs between the variants"
    ),
    "unknown sweeper": swept(
        "hydra/sweeper=orchestra", says="no 'orchestra'", hint="'orchestrate'?"
    ),
    "unknown launcher": swept(
        "hydra/launcher=joblib", says="there is no 'joblib'", hint="orchestrate"
    ),
    "no TensorRT": mistake(*GPU, says="TensorRT is not installed in", hint="toolchain.command"),
    "no such device": mistake(
        *GPU,
        "toolchain=trt86",
        "target.device=0,3",
        says="target.device: toolchain trt86: device 3 was asked for; 1 are visible",
    ),
}


# Those of which no other quick test has anything like it; a case takes up to half a second.
QUICK = (
    "a comma too many",
    "unknown function",
    "empty matrix",
    "unknown group in a matrix",
    "a thousand million",
    "a file in the directory's place",
    "a sweep over the directory",
    "interpolation of nothing in a matrix",
    "tabs",
    "no text",
    "a list",
)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("project")
    make_project(root)
    return root


@pytest.fixture
def here(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    work = tmp_path / "work"
    shutil.copytree(project, work)
    monkeypatch.chdir(work)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return work


def check(made: Mistake, code: int, out: str, err: str) -> None:
    """Check the message: what, where, and at most two lines on what to do."""
    assert (code, out) == (made.code, ""), err
    first, *hints = err.rstrip("\n").split("\n")
    assert first.startswith("error: ")
    assert made.says in first
    assert made.hint in "\n".join(hints)
    assert all(line.startswith("  → ") for line in hints)
    assert len(hints) <= 2


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in MISTAKES],
)
def test_one_message_and_nothing_ran(
    here: Path, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    made = MISTAKES[name]
    for path, text in made.files.items():
        file = here / "conf" / f"{path}.yaml"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(text.encode() if isinstance(text, str) else text)
    code = main(made.words)

    check(made, code, *capfd.readouterr())
    assert not (here / "outputs").exists()


@pytest.mark.slow
def test_no_gpu(
    here: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STANDIN_FAULT", "no_driver")
    code = main((*GPU, "toolchain=trt86"))

    check(mistake(says="no CUDA device", hint="NVIDIA driver"), code, *capfd.readouterr())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["unknown group", "all excluded", "defaults in a circle"])
def test_the_command_says_the_same(project: Path, tmp_path: Path, name: str) -> None:
    place = Workplace.at(tmp_path)
    shutil.copytree(project, place.directory, dirs_exist_ok=True)
    made = MISTAKES[name]
    for path, text in made.files.items():
        (place.directory / "conf" / path).parent.mkdir()
        (place.directory / "conf" / f"{path}.yaml").write_text(str(text))
    ran = place.run(*made.words)

    check(made, ran.code, ran.out, ran.err)
