"""Cached pixels are made once, and again if their file is incomplete."""

from pathlib import Path

import torch
from torch import Tensor

from graftcli.store.cache_files import Cache


def test_pixels_are_made_once_unless_their_file_is_not_whole(tmp_path: Path) -> None:
    made: list[int] = []

    def make() -> Tensor:
        made.append(len(made) + 1)
        return torch.full((2, 3), made[-1], dtype=torch.uint8)

    for times in (1, 1):
        assert torch.equal(Cache(tmp_path).pixels("new", (2, 3), make), torch.full((2, 3), 1, dtype=torch.uint8))
        assert len(made) == times
    (tmp_path / "new.bin").write_bytes(b"torn")
    assert torch.equal(Cache(tmp_path).pixels("new", (2, 3), make), torch.full((2, 3), 2, dtype=torch.uint8))
