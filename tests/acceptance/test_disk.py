"""A store on a read-only or full disk: one message, and what is there stays whole."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable

import pytest

from tests.acceptance.conftest import TINY, Site
from tests.command import Workplace

STORE_ERROR = 3
# A mount of our own, seen by this command alone.
NAMESPACE = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c")


def mounting(command: str) -> tuple[str, ...]:
    """Return the wrapper that runs *command* in a mount namespace before the real one."""
    return (*NAMESPACE, f'{command} && exec "$@"', "sh")


def namespaces_work() -> bool:
    if shutil.which("unshare") is None:
        return False
    tried = subprocess.run(
        [*NAMESPACE, "mount -t tmpfs none /mnt"], capture_output=True, check=False
    )
    return tried.returncode == 0


needs_mounts = pytest.mark.skipif(
    not namespaces_work(), reason="mount namespaces are not permitted to this user"
)


@needs_mounts
def test_a_read_only_store_is_refused_in_one_message(edited: Workplace) -> None:
    mount = f"mount --bind {edited.cache} {edited.cache} && mount -o remount,ro,bind {edited.cache}"
    ran = edited.run(*TINY, wrapper=mounting(mount))

    assert ran.code == STORE_ERROR, ran.text
    assert ran.err.startswith(f"error: {edited.store}: the store cannot be written")
    assert "set cache.dir=DIR" in ran.err
    assert "Traceback" not in ran.text
    assert edited.whole()


@needs_mounts
@pytest.mark.parametrize("size_kib", [64, pytest.param(600, marks=pytest.mark.slow)])
def test_a_full_store_is_one_message(place: Workplace, size_kib: int) -> None:
    # 64 KiB: the parent meets the end of the disk; 600 KiB: some of the results fit.
    wrapper = mounting(f"mount -t tmpfs -o size={size_kib}k none {place.cache}")
    ran = place.run("precision=fp32", "benchmark=none", wrapper=wrapper)

    assert ran.code == STORE_ERROR, ran.text
    assert "no space left" in ran.err
    assert "cache gc" in ran.err
    assert "Traceback" not in ran.text


def test_a_file_where_the_store_should_be(place: Workplace) -> None:
    place.store.write_text("not a directory")
    ran = place.run("precision=fp32")

    assert ran.code == STORE_ERROR
    assert ran.err.startswith("error: ")
    assert "set cache.dir=DIR" in ran.err


def test_a_store_of_a_newer_version(place: Workplace) -> None:
    place.store.mkdir()
    (place.store / "SCHEMA").write_text("99\n")
    ran = place.run("precision=fp32")

    assert ran.code == STORE_ERROR
    assert "schema 99" in ran.err


def test_the_store_goes_where_the_configuration_says(
    demo: Site, copy_of: Callable[[Site], Workplace]
) -> None:
    place = copy_of(demo)
    place.store.rename(place.directory / "elsewhere")
    built = place.build("precision=fp32", "benchmark=none", "cache.dir=elsewhere")

    assert built.code == 0, built.text
    assert built.ran() == set()
    # What it composed to is remembered before anybody knows the store.
    assert [path.name for path in place.store.iterdir()] == ["index"]
