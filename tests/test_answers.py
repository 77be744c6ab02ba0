"""What the teacher said of each view, and where it lies."""

import errno
import os
from pathlib import Path

import pytest
import torch
from torch import nn

from graftcli.errors import MachineError
from graftcli.graft.answers import Answers, _make
from graftcli.graft.views import Views
from graftcli.recipe.values import Augment
from tests.engine import FIT, images
from tests.machine import small_disk


def answers(folder: Path, count: int) -> Answers:
    """Of `count` views of twelve images each, the views themselves as the teacher's only value: 3 kB."""
    views = Views(images().pixels, FIT, Augment(flip=True), count, 0)
    cpu = torch.device("cpu")
    return Answers(views, [nn.Identity()], [(3, 16, 16)], {1: "disk"}, folder=folder, chunk=8, device=cpu)


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="this system reserves no room")
def test_a_mapped_file_has_its_room_before_anything_is_written(tmp_path: Path) -> None:
    _make(tmp_path / "value-1.bin", 10**6)
    made = (tmp_path / "value-1.bin").stat()
    assert made.st_size == 10**6 <= 512 * made.st_blocks


def test_a_disk_that_is_too_small_is_told_at_once(tmp_path: Path) -> None:
    """Written to later, it would end the process with SIGBUS."""
    with small_disk(tmp_path) as disk:
        with pytest.raises(MachineError, match=r"value-1.bin` cannot be written: No space left .*3.7 MB are needed"):
            answers(disk, 100).look({1}, lambda *_: None)
        assert not list(disk.iterdir())


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.EINVAL])
def test_a_file_system_that_reserves_nothing_will_do(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: int) -> None:
        raise OSError(code, "no")

    monkeypatch.setattr(os, "posix_fallocate", refused, raising=False)
    found = answers(tmp_path, 2)
    found.look({1}, lambda *_: None)
    index = torch.tensor([3, 17])
    assert torch.equal(found.at(1, index), found.views.normalised(index))
