from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import orchestrator
from orchestrator import locations
from orchestrator.errors import ConfigError, StoreError
from orchestrator.locations import bundled, home_expanded, resolve
from orchestrator.store.store import default_directory


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Packages whose code fails when it runs, so that a test sees any import."""
    for name in ("regular", "regular/inner"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('imported')")
    (tmp_path / "regular/inner/data.bin").write_text("x")
    (tmp_path / "space/inner").mkdir(parents=True)
    (tmp_path / "space/inner/data.bin").write_text("x")
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.mark.parametrize("package", ["regular.inner", "space.inner"])
def test_package_files_are_found_without_importing(packages: Path, package: str) -> None:
    found = resolve(f"pkg://{package}/data.bin", Path("elsewhere"))
    assert found == packages / package.replace(".", "/") / "data.bin"
    assert package.partition(".")[0] not in sys.modules


def test_a_file_that_is_not_there_still_has_a_path(packages: Path) -> None:
    found = resolve("pkg://regular/no/such.file", Path())
    assert found == packages / "regular/no/such.file"


def test_other_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert resolve("a/b.npz", tmp_path / "base") == tmp_path / "base/a/b.npz"
    assert resolve("a/b.npz", Path("base")) == tmp_path / "base/a/b.npz"
    assert resolve("/a/b.npz", tmp_path) == Path("/a/b.npz")
    assert resolve("~/b.npz", tmp_path / "base") == tmp_path / "b.npz"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pkg://no_such_package/x", "the package 'no_such_package' .* is not installed here"),
        ("pkg://regular.nope/x", r"the package 'regular\.nope' .* is not installed here"),
        ("pkg:///x", "names no package"),
        ("pkg://regular/../x", "leaves the package"),
        ("pkg://regular//etc/passwd", "leaves the package"),
    ],
)
def test_package_paths_that_name_nothing(packages: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve(text, Path())


def test_bundled_folders_lie_beside_the_package_or_inside_a_wheel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "orchestrator"
    monkeypatch.setattr(locations, "__file__", str(package / "locations.py"))
    assert bundled("conf") == tmp_path / "conf"
    (package / "_bundled/conf").mkdir(parents=True)
    (tmp_path / "conf").mkdir()
    assert bundled("conf") == package / "_bundled/conf"


def test_the_checkout_has_its_conf() -> None:
    assert bundled("conf") == Path(orchestrator.__file__).parents[1] / "conf"
    assert (bundled("conf") / "model/digits.yaml").is_file()


def test_the_planner_can_afford_it() -> None:
    code = (
        "import sys; import orchestrator.locations; "
        "assert not {'numpy', 'torch', 'pydantic', 'hydra'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_package_of_the_base_directory_comes_first(packages: Path, tmp_path: Path) -> None:
    base = tmp_path / "project"
    for name in ("localpk", "regular"):
        (base / name).mkdir(parents=True)
        (base / name / "__init__.py").write_text("raise RuntimeError('imported')")

    assert resolve("pkg://localpk/data.bin", base) == base / "localpk" / "data.bin"
    assert resolve("pkg://regular/data.bin", base) == base / "regular" / "data.bin"


def test_a_home_that_nobody_knows() -> None:
    with pytest.raises(ConfigError, match="home directory") as caught:
        home_expanded("~nobody_x/store", where="cache.dir")
    assert caught.value.where == "cache.dir"


def test_the_default_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    assert default_directory() == tmp_path / "caches" / "orchestrate"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # its specification: to be ignored
    assert default_directory() == tmp_path / ".cache" / "orchestrate"
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("os.getuid", lambda: 2**31 - 7)  # a user without an entry
    with pytest.raises(StoreError, match="no home directory"):
        default_directory()
