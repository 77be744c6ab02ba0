"""What the teacher said of each view, and where it lies."""

import errno
from pathlib import Path

import pytest
import torch
from torch import nn

from graftcli.graft.answers import Answers
from graftcli.graft.views import Views
from graftcli.recipe.values import Augment
from tests.engine import FIT, images
from tests.machine import small_disk


def answers(folder: Path, count: int) -> Answers:
    """Of `count` views of twelve images each, the views themselves as the teacher's only value: 3 kB."""
    views = Views(images().pixels, FIT, Augment(flip=True), count, 0)
    cpu = torch.device("cpu")
    return Answers(views, [nn.Identity()], [(3, 16, 16)], {1: "disk"}, folder=folder, chunk=8, device=cpu)


def test_a_mapped_file_has_its_room_before_anything_is_written(tmp_path: Path) -> None:
    found = answers(tmp_path, 2)
    found.look({1}, lambda *_: None)
    file = (tmp_path / "value-1.bin").stat()
    assert file.st_size == 24 * 3 * 16 * 16 * 4 <= 512 * file.st_blocks
    index = torch.tensor([3, 17])
    assert torch.equal(found.at(1, index), found.views.normalised(index))


def test_a_disk_that_is_too_small_is_told_at_once(tmp_path: Path) -> None:
    """Written to later, it would end the process with SIGBUS."""
    with small_disk(tmp_path) as disk, pytest.raises(OSError) as told:
        answers(disk, 100).look({1}, lambda *_: None)
    assert told.value.errno == errno.ENOSPC and told.value.filename == str(disk / "value-1.bin")
