"""What is written is read back, compared, then renamed into place: a file under its final name is whole."""

import errno
import math
import os
import random
import resource
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from graftcli.errors import MachineError, UsageError
from graftcli.store.atomic import write_bytes, write_json
from tests.processes import kill, small_disk, started, wait_for

SEED = 7


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# -- bytes --------------------------------------------------------------------------------------------------------


def test_bytes_are_written_and_nothing_stays_beside_them(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file.bin"
    for data in (b"", b"old", b"newer" * 1000):
        write_bytes(path, data)
        assert path.read_bytes() == data and names(path.parent) == ["file.bin"]


def test_new_file_has_the_usual_permissions(tmp_path: Path) -> None:
    (tmp_path / "usual").write_bytes(b"x")
    write_bytes(tmp_path / "file", b"x")
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_a_link_is_replaced_unless_it_is_to_be_followed(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write_bytes(tmp_path / "link", b"new", follow=True)
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real").read_bytes() == b"new"
    write_bytes(tmp_path / "link", b"newer")
    assert not (tmp_path / "link").is_symlink() and (tmp_path / "real").read_bytes() == b"new"
    assert (tmp_path / "link").read_bytes() == b"newer"


def test_only_regular_files_are_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match=r"`.*pipe` is not a regular file"):
        write_bytes(tmp_path / "pipe", b"x")
    with pytest.raises(UsageError, match="is a folder"):
        write_bytes(tmp_path, b"x")
    assert names(tmp_path) == ["pipe"]


def _write_forever(path: Path, size: int) -> None:
    """Files of one letter each, of which every one is another than the last."""
    turn = 0
    while True:
        turn += 1
        write_bytes(path, bytes([turn % 256]) * (size + turn % 256))


def test_after_a_kill_at_any_moment_the_file_is_the_old_one_or_the_new_one(tmp_path: Path) -> None:
    path, size = tmp_path / "file.bin", 2_000_000
    moments, beside = random.Random(SEED), 0
    for _ in range(30):
        path.unlink(missing_ok=True)
        process = started(_write_forever, path, size)
        wait_for(path, process)
        time.sleep(moments.uniform(0, 0.05))
        kill(process)
        data = path.read_bytes()
        assert set(data) == {data[0]} and len(data) == size + data[0]
        beside += len(names(tmp_path)) > 1
    assert beside, "no kill met a file while it was written: the moments are badly chosen"


# -- what the machine refuses -------------------------------------------------------------------------------------


def test_a_full_disk_leaves_the_old_file_and_says_how_much_is_needed(tmp_path: Path) -> None:
    with small_disk(tmp_path) as disk:
        path = disk / "model.bin"
        write_bytes(path, b"old" * 1000)
        with pytest.raises(MachineError) as caught:
            write_bytes(path, bytes(1_500_000))
        assert path.read_bytes() == b"old" * 1000 and names(disk) == ["model.bin"]
    assert f"`{path}` cannot be written: No space left on device (1.5 MB needed, 1.0 MB free)" in caught.value.message
    assert "Free some space and run the same command again" in caught.value.fix
    assert caught.value.exit_code == 7


def test_a_file_that_may_not_grow_is_like_a_full_disk(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    write_bytes(path, b"old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, before[1]))
    try:
        with pytest.raises(MachineError, match=r"File too large \(1\.5 MB needed.*ulimit -f"):
            write_bytes(path, bytes(1_500_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.read_bytes() == b"old" and names(tmp_path) == ["model.bin"]


def test_a_disk_that_is_read_only_is_named_as_one(tmp_path: Path) -> None:
    with small_disk(tmp_path) as disk:
        write_bytes(disk / "model.bin", b"old")
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        with pytest.raises(MachineError, match="Read-only file system") as caught:
            write_bytes(disk / "model.bin", b"new")
        assert (disk / "model.bin").read_bytes() == b"old"
    assert "Mount it for writing" in caught.value.fix and "--out" in caught.value.fix


@contextmanager
def as_nobody() -> Iterator[None]:
    """Root may write anywhere; everybody else is kept out by permissions as they are."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def test_a_folder_that_is_closed_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o555)
    with (
        as_nobody(),
        pytest.raises(MachineError, match=r"`.*model.bin` cannot be written: Permission denied for `.*closed`"),
    ):
        write_bytes(folder / "model.bin", b"new")
    assert names(folder) == []


def test_a_path_below_a_file_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(MachineError, match=r"`.*file` is a file, not a folder"):
        write_bytes(tmp_path / "file" / "model.bin", b"new")


def test_a_disk_that_reads_back_other_bytes_is_detected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.bin"
    write_bytes(path, b"old")
    honest = os.fsync

    def spoil(handle: int) -> None:
        os.pwrite(handle, b"!", 1)
        honest(handle)

    monkeypatch.setattr(os, "fsync", spoil)
    with pytest.raises(MachineError, match="reads back differently than it was written"):
        write_bytes(path, b"new bytes")
    assert path.read_bytes() == b"old" and names(tmp_path) == ["model.bin"]


def test_a_failing_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.bin"
    write_bytes(path, b"old")

    def fail(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(MachineError, match="Input/output error"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old" and names(tmp_path) == ["model.bin"]


# -- JSON ---------------------------------------------------------------------------------------------------------


def test_json_is_sorted_and_knows_only_numbers_that_json_knows(tmp_path: Path) -> None:
    write_json(tmp_path / "run.json", {"b": (1, math.nan), "a": {2: True}})
    assert (tmp_path / "run.json").read_text() == (
        '{\n  "a": {\n    "2": true\n  },\n  "b": [\n    1,\n    null\n  ]\n}\n'
    )
