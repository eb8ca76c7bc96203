"""The tar streams of worker.py."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.backends.tensorrt import worker


def archive(*members: tuple[tarfile.TarInfo, bytes]) -> io.BytesIO:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for info, data in members:
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    stream.seek(0)
    return stream


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.linkname = link
    return info


def test_files_and_folders_are_unpacked(tmp_path: Path) -> None:
    stream = archive(
        (member("folder", tarfile.DIRTYPE), b""),
        (member("folder/file"), b"data"),
        (member("deep/er/file"), b""),
    )
    worker.unpack(stream, str(tmp_path))
    assert (tmp_path / "folder/file").read_bytes() == b"data"
    assert (tmp_path / "deep/er/file").read_bytes() == b""


@pytest.mark.parametrize("name", ["/etc/x", "../x", "a/../../x", "a/..", "."])
def test_names_that_lead_out_are_refused(tmp_path: Path, name: str) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    with pytest.raises(worker.Failure, match="leads out") as caught:
        worker.unpack(archive((member(name), b"x")), str(inner))
    assert caught.value.kind == "bug"
    assert [path.name for path in tmp_path.rglob("*")] == ["inner"]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(tmp_path: Path, kind: bytes) -> None:
    with pytest.raises(worker.Failure):
        worker.unpack(archive((member("x", kind, "/etc/passwd"), b"")), str(tmp_path))
    assert not (tmp_path / "x").exists()


names = st.text("abc/é ", min_size=1, max_size=150).map(
    lambda text: "/".join(part.strip() or "_" for part in text.split("/") if part) or "_"
)


@given(files=st.dictionaries(names, st.binary(max_size=2000), max_size=6))
@settings(max_examples=40, deadline=None)
def test_the_announced_size_is_what_follows(
    tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes]
) -> None:
    root = tmp_path_factory.mktemp("files")
    kept = {}
    for name, data in files.items():
        path = root / name
        if any(parent.is_file() for parent in path.parents) or path.is_dir():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        kept[name] = data
    stream = io.BytesIO()
    channel = worker.Channel(stream, lambda: None)
    worker.pack(stream, str(root), sorted(kept), channel)
    channel.event("log", text="nothing may follow the files")
    line, _, rest = stream.getvalue().partition(b"\n")
    assert json.loads(line) == {"event": "files", "bytes": len(rest)}
    with tarfile.open(fileobj=io.BytesIO(rest)) as tar:
        found = {info.name: tar.extractfile(info) for info in tar}
        assert {name: file.read() for name, file in found.items() if file} == kept


def test_only_new_and_changed_files_are_listed(tmp_path: Path) -> None:
    (tmp_path / "same").write_text("a")
    (tmp_path / "cache.lock").write_text("")
    (tmp_path / "link").symlink_to("/etc/passwd")
    before = worker.listing(str(tmp_path))
    (tmp_path / "new").write_text("b")
    after = worker.listing(str(tmp_path))
    assert list(before) == ["same"]
    assert {name for name in after if before.get(name) != after[name]} == {"new"}


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def parts() -> list[bytes]:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        worker.write_atomically(str(path), (part for _ in range(1) for part in parts()))
    assert path.read_bytes() == b"old"
    assert [item.name for item in tmp_path.iterdir()] == ["file"]
    assert worker.write_atomically(str(path), [b"new", memoryview(b"er")]) == 5
    assert path.read_bytes() == b"newer"


class Closed(io.BytesIO):
    """A pipe that nobody reads."""

    def write(self, data: object) -> int:
        raise BrokenPipeError


def test_a_lost_reader_is_told_once() -> None:
    lost: list[int] = []
    channel = worker.Channel(Closed(), lambda: lost.append(1))
    channel.progress(0.5, "half")
    channel.progress(0.6, "more")
    assert lost == [1]
