"""Row files: rows read back as written, and a full disk is reported at once."""

import errno
import os
from pathlib import Path

import pytest
import torch

from graftcli.errors import MachineError
from graftcli.store.row_file import DamagedRow, RowFile
from tests.processes import small_disk


def rows(path: Path, count: int = 20, dtype: torch.dtype = torch.float32) -> RowFile:
    """Of 3 kB each, or half of that."""
    found = RowFile(path, count, (3, 16, 16), dtype)
    found.open()
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_are_read_in_any_order_and_as_often_as_wanted(dtype: torch.dtype, tmp_path: Path) -> None:
    written = torch.randn(20, 3, 16, 16, generator=torch.Generator().manual_seed(0)).to(dtype)
    found = rows(tmp_path / "values.bin", dtype=dtype)
    for start in (0, 8, 16):
        found.write(start, written[start : start + 8])
    index = torch.tensor([19, 0, 7, 7, 8])
    assert torch.equal(found.read(index), written[index])
    sums = found.checksums.total(20)
    found.close()
    again = rows(tmp_path / "values.bin", dtype=dtype)
    assert again.restore(20, sums) and torch.equal(again.read(torch.arange(20)), written)


def test_a_row_that_is_not_what_was_written_is_named(tmp_path: Path) -> None:
    found = rows(tmp_path / "values.bin")
    found.write(0, torch.ones(20, 3, 16, 16))
    sums = found.checksums.total(20)
    with (tmp_path / "values.bin").open("r+b") as file:
        file.seek(7 * 3072 + 11)
        file.write(b"\x01")
    assert torch.equal(found.read(torch.tensor([6, 8])), torch.ones(2, 3, 16, 16))
    with pytest.raises(DamagedRow) as caught:
        found.read(torch.tensor([6, 7]))
    assert caught.value.row == 7
    assert not rows(tmp_path / "values.bin").restore(20, sums)
    assert rows(tmp_path / "values.bin").restore(7, found.checksums.total(7))


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="this system reserves no room")
def test_a_file_has_its_room_before_anything_is_written(tmp_path: Path) -> None:
    rows(tmp_path / "values.bin")
    made = (tmp_path / "values.bin").stat()
    assert made.st_size == 20 * 3 * 16 * 16 * 4 <= 512 * made.st_blocks


def test_a_disk_that_is_too_small_is_refused_at_once(tmp_path: Path) -> None:
    with small_disk(tmp_path) as disk:
        with pytest.raises(MachineError, match=r"values.bin` cannot be written: No space left .*3.7 MB needed"):
            rows(disk / "values.bin", 1200)
        assert not list(disk.iterdir())


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.EINVAL])
def test_a_file_system_that_reserves_nothing_will_do(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: int) -> None:
        raise OSError(code, "no")

    monkeypatch.setattr(os, "posix_fallocate", refused, raising=False)
    found = rows(tmp_path / "values.bin")
    found.write(3, torch.ones(1, 3, 16, 16))
    assert float(found.read(torch.tensor([3])).sum()) == 3 * 16 * 16


def test_a_file_that_became_shorter_has_damaged_rows(tmp_path: Path) -> None:
    found = rows(tmp_path / "values.bin")
    found.write(0, torch.zeros(20, 3, 16, 16))
    os.truncate(tmp_path / "values.bin", 5000)
    with pytest.raises(DamagedRow):
        found.read(torch.tensor([0, 2]))
