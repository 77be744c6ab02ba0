"""What the demo works on, all of it in the package: digits, pictures made of them, two networks, a trained teacher.

    rows 0 to 999      the teacher was trained on these, in ever new scenes
    ten of each class  of the rest: 100 pictures without labels, all that the student is trained on
    the other 697      for scoring: neither network ever saw them

The rows of the data set go from writer to writer, so most of the rest is in hands that the teacher never saw.
"""

import io
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.random import RandomState
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from graftcli.demo.scenes import scenes
from graftcli.errors import UsageError
from graftcli.store.atomic import write_bytes

HERE = Path(__file__).parent
DIGITS = HERE / "digits.npz"  # strokes uint8 [1797, 8, 8] of 0..16, labels uint8 [1797]; LICENSE-digits.txt
TEACHER_WEIGHTS = HERE / "teacher.safetensors"
TEACHER = "graftcli.demo.networks:teacher"
STUDENT = "graftcli.demo.networks:student"

CLASSES, SHOTS = 10, 10
TAUGHT = 1000  # the rows that the teacher was trained on
_FEW_SEED, _HELD_OUT_SEED = 1, 2  # of the scenes


@cache
def digits() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The strokes and labels of all rows, in the order of the data set."""
    with np.load(DIGITS) as saved:
        return saved["strokes"], saved["labels"]


def few_rows() -> NDArray[np.int64]:
    """SHOTS rows of each class, spread evenly over those that the teacher never saw; in the data set's order."""
    labels = digits()[1]
    of_class = [TAUGHT + np.flatnonzero(labels[TAUGHT:] == label) for label in range(CLASSES)]
    return np.sort(np.concatenate([rows[:: len(rows) // SHOTS][:SHOTS] for rows in of_class]))


def held_out_rows() -> NDArray[np.int64]:
    """All rows that are neither the teacher's nor among the few."""
    return np.setdiff1d(np.arange(TAUGHT, len(digits()[0])), few_rows())


def images() -> Tensor:
    """The pictures to distil from: uint8 [100, 1, 32, 32]."""
    return _pictures(few_rows(), _FEW_SEED)


def held_out() -> tuple[Tensor, Tensor]:
    """The pictures to score on, uint8 [697, 1, 32, 32], and their classes, int64."""
    rows = held_out_rows()
    return _pictures(rows, _HELD_OUT_SEED), torch.from_numpy(digits()[1][rows].astype(np.int64))


def write_images(folder: Path) -> None:
    """`images` as PNG files 000.png to 099.png, whose names and order tell no class."""
    _write({folder / f"{index:03}.png": picture for index, picture in enumerate(images())}, folder)


def write_held_out(folder: Path) -> None:
    """`held_out` as PNG files in folders 0 to 9, their classes."""
    both = enumerate(zip(*held_out(), strict=True))
    _write({folder / str(int(label)) / f"{index:03}.png": picture for index, (picture, label) in both}, folder)


def _pictures(rows: NDArray[np.int64], seed: int) -> Tensor:
    return torch.from_numpy(scenes(digits()[0][rows], RandomState(seed)))[:, None]


def _write(pictures: Mapping[Path, Tensor], folder: Path) -> None:
    """All of them; a folder that holds anything else is left as it is."""
    files = {path: _png(picture) for path, picture in pictures.items()}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.read_bytes() != files.get(path):
            raise UsageError(f"`{path}` is no picture of the demo.", "Choose another folder with --out.")
    for path, data in files.items():
        if not path.exists():
            write_bytes(path, data)


def _png(picture: Tensor) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(picture[0].numpy()).save(stream, "PNG")
    return stream.getvalue()
