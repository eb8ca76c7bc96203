"""Plugin libraries: real shared objects, and a registry that does what 8.6.0's was seen to do."""

from __future__ import annotations

import ctypes
import io
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.backends.tensorrt import worker
from tests.backends.tensorrt.stubs import bindings

#: Dynamic libraries are asked by the registry; static ones register themselves when loaded, which
#: the environment of the process tells here.
DYNAMIC = "int getPluginCreators(void) { return 0; }\n"
STATIC = """
#include <stdlib.h>
__attribute__((constructor)) static void load(void) { setenv("STATIC_PLUGINS", "1", 1); }
"""


class Registry:
    """TensorRT's plugin registry, as far as libraries concern it."""

    def __init__(self) -> None:
        self.libraries: list[str] = []
        self.full = False

    @property
    def plugin_creator_list(self) -> list[str]:
        getenv = ctypes.CDLL(None).getenv
        getenv.restype = ctypes.c_char_p
        return ["static"] if getenv(b"STATIC_PLUGINS") else []

    def load_library(self, path: str) -> object:
        self.libraries.append(path)
        return None if self.full else object()


@pytest.fixture
def registry() -> Any:
    yield Registry()
    ctypes.CDLL(None).unsetenv(b"STATIC_PLUGINS")


@pytest.fixture
def session(registry: Registry, tmp_path: Path) -> worker.Session:
    made = worker.Session(str(tmp_path), {}, worker.Channel(io.BytesIO(), lambda: None))
    made.trt = SimpleNamespace(get_plugin_registry=lambda: registry)
    return made


def library(folder: Path, name: str, code: str, *flags: str) -> str:
    command = bindings.compiler()
    if command is None:
        pytest.skip("no C compiler: install gcc, or the package ziglang")
    source, target = folder / f"{name}.c", folder / f"lib{name}.so"
    source.write_text(code)
    words = [*command, "-shared", "-fPIC", "-o", str(target), str(source), *flags]
    subprocess.run(words, check=True, cwd=folder)
    return str(target)


def test_a_dynamic_library_is_asked_for_its_plugins(
    session: worker.Session, registry: Registry, tmp_path: Path
) -> None:
    path = library(tmp_path, "dynamic", DYNAMIC)
    session.load_plugin(path)
    assert registry.libraries == [path]
    registry.full = True
    with pytest.raises(worker.Failure, match=r"'libdynamic.so': some .* registered already"):
        session.load_plugin(path)


def test_a_library_that_registered_its_plugins_is_not_asked_again(
    session: worker.Session, registry: Registry, tmp_path: Path
) -> None:
    session.load_plugin(library(tmp_path, "both", STATIC + DYNAMIC))
    assert registry.plugin_creator_list == ["static"]
    assert registry.libraries == []
    assert session.log.warnings() == []


def test_a_library_without_plugins_is_said(session: worker.Session, tmp_path: Path) -> None:
    session.load_plugin(library(tmp_path, "plain", "int plain;\n"))
    assert session.log.warnings() == ["plugin library 'libplain.so' brings no TensorRT plugins"]


def test_what_cannot_be_loaded_is_one_clear_refusal(
    session: worker.Session, tmp_path: Path
) -> None:
    (tmp_path / "libtext.so").write_text("no library")
    undefined = library(tmp_path, "undefined", "int lost(void); int f(void) { return lost(); }\n")
    needed = Path(library(tmp_path, "needed", "int needed;\n"))
    lonely = library(tmp_path, "lonely", "int lonely;\n", "-Wl,--no-as-needed", "libneeded.so")
    needed.unlink()
    reasons = {
        str(tmp_path / "libgone.so"): "'libgone.so' is not there: ",
        str(tmp_path / "libtext.so"): "'libtext.so' cannot be loaded: file too short",
        undefined: "'libundefined.so' cannot be loaded: undefined symbol: lost",
        lonely: "'liblonely.so' cannot be loaded: libneeded.so: cannot open",
    }
    for path, reason in reasons.items():
        with pytest.raises(worker.Failure) as caught:
            session.load_plugin(path)
        assert reason in caught.value.message
        assert caught.value.kind == "refused"
        assert caught.value.details == {"where": "target.plugins"}


def parser_of(*libraries: str) -> Any:
    return SimpleNamespace(get_used_vc_plugin_libraries=lambda: list(libraries))


@pytest.mark.parametrize(
    ("options", "carried", "loaded"),
    [
        ({}, None, []),
        ({"version_compatible": True}, ["vc.so"], ["vc.so"]),
        ({"version_compatible": True, "exclude_lean_runtime": True}, None, ["vc.so"]),
        ({"version_compatible": True, "ignore_parsed_plugin_libs": True}, None, []),
        (
            {"version_compatible": True, "plugins_to_serialize": ["x.so"]},
            ["DIR/plugins/x.so", "vc.so"],
            ["vc.so"],
        ),
    ],
)
def test_libraries_that_a_plan_carries(
    session: worker.Session,
    registry: Registry,
    options: dict[str, Any],
    carried: list[str] | None,
    loaded: list[str],
) -> None:
    session.request = {"plugins": ["plugins/x.so", "plugins/y.so"]}
    config = SimpleNamespace(plugins_to_serialize=None)
    work: Any = SimpleNamespace(session=session, config=config, parser=parser_of("vc.so"))
    worker.plugins_in_plan(work, options)
    found = config.plugins_to_serialize
    assert carried == (found and [path.replace(session.directory, "DIR") for path in found])
    assert registry.libraries == loaded
