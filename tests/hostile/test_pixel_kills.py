"""Decoding that is killed at any moment, again and again: the images are those of an undisturbed run."""

import random
import time
from pathlib import Path

import pytest
import torch

from graftcli.errors import MachineError
from graftcli.store.pixel_decoding import DecodeOptions
from tests.generated import store_of
from tests.processes import kill, started, wait_for

_COUNT, _SIDE = 4_000, 16
_OPTIONS = DecodeOptions(jobs=1, chunk_bytes=100 * 3 * _SIDE**2)


def _decode(folder: Path, ready: Path) -> None:
    def report(done: int, _: int) -> None:
        ready.touch()

    store_of(folder, _COUNT, _SIDE, DecodeOptions(jobs=1, chunk_bytes=_OPTIONS.chunk_bytes, on_progress=report))
    ready.touch()  # also if an earlier process had decoded everything
    time.sleep(600)


@pytest.mark.parametrize("seed", range(3))
def test_killed_decoding_ends_with_the_same_bytes(tmp_path: Path, seed: int) -> None:
    draw, expected = random.Random(seed), store_of(tmp_path / "whole", _COUNT, _SIDE, _OPTIONS)
    for number in range(4):
        process = started(_decode, tmp_path / "cache", tmp_path / f"{number}")
        wait_for(tmp_path / f"{number}", process)
        time.sleep(draw.uniform(0, 0.6))
        kill(process)
    images = store_of(tmp_path / "cache", _COUNT, _SIDE, _OPTIONS)
    assert images.digest == expected.digest and torch.equal(images.pixels, expected.pixels)
    assert list(images.names) == list(expected.names)
    assert not [path for path in (tmp_path / "cache").iterdir() if path.suffix in (".rows", ".journal", ".lock")]


def test_two_processes_do_not_decode_into_the_same_file(tmp_path: Path) -> None:
    process = started(_decode, tmp_path / "cache", tmp_path / "ready")
    wait_for(tmp_path / "ready", process)
    with pytest.raises(MachineError, match="another process is decoding the same images"):
        store_of(tmp_path / "cache", _COUNT, _SIDE, _OPTIONS)
    kill(process)
