"""The data of the demo, included in the package: handwritten digits, images rendered from them, a trained teacher.

    rows 0 to 999         training set of the teacher, rendered as new scenes in every epoch
    10 others per class  100 unlabelled images to distil from
    the remaining 697     test set of both networks

Rows are ordered by writer, so most digits outside the teacher's training set are by writers that are not in that set.
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
_DIGITS = HERE / "digits.npz"  # strokes uint8 [1797, 8, 8] of 0..16, labels uint8 [1797]; LICENSE-digits.txt
TEACHER_WEIGHTS = HERE / "teacher.safetensors"
TEACHER = "graftcli.demo.networks:teacher"
STUDENT = "graftcli.demo.networks:student"

CLASSES, SHOTS = 10, 10
TRAIN_ROWS = 1000  # rows that the teacher was trained on
_FEW_SHOT_SEED, _HELD_OUT_SEED = 1, 2  # seeds of the scenes


@cache
def digits() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return the strokes and labels of all rows, in dataset order."""
    with np.load(_DIGITS) as arrays:
        return arrays["strokes"], arrays["labels"]


def few_shot_rows() -> NDArray[np.int64]:
    """Return SHOTS rows per class, spread evenly over the rows outside the teacher's training set, in dataset order."""
    labels = digits()[1]
    rows_per_class = [TRAIN_ROWS + np.flatnonzero(labels[TRAIN_ROWS:] == label) for label in range(CLASSES)]
    return np.sort(np.concatenate([rows[:: len(rows) // SHOTS][:SHOTS] for rows in rows_per_class]))


def held_out_rows() -> NDArray[np.int64]:
    """Return all rows that neither network was trained on."""
    return np.setdiff1d(np.arange(TRAIN_ROWS, len(digits()[0])), few_shot_rows())


def images() -> Tensor:
    """Return the images to distil from: uint8 [100, 1, 32, 32]."""
    return _render(few_shot_rows(), _FEW_SHOT_SEED)


def held_out() -> tuple[Tensor, Tensor]:
    """Return the test images, uint8 [697, 1, 32, 32], and their labels, int64."""
    rows = held_out_rows()
    return _render(rows, _HELD_OUT_SEED), torch.from_numpy(digits()[1][rows].astype(np.int64))


def write_images(folder: Path) -> None:
    """Write `images` as PNG files 000.png to 099.png; neither names nor order reveal the classes."""
    _write({folder / f"{index:03}.png": image for index, image in enumerate(images())}, folder)


def write_held_out(folder: Path) -> None:
    """Write `held_out` as PNG files in class folders 0 to 9."""
    samples = enumerate(zip(*held_out(), strict=True))
    _write({folder / str(int(label)) / f"{index:03}.png": image for index, (image, label) in samples}, folder)


def _render(rows: NDArray[np.int64], seed: int) -> Tensor:
    return torch.from_numpy(scenes(digits()[0][rows], RandomState(seed)))[:, None]


def _write(images: Mapping[Path, Tensor], folder: Path) -> None:
    """Write the images; raise if the folder holds any other file."""
    files = {path: _png(image) for path, image in images.items()}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.read_bytes() != files.get(path):
            raise UsageError(f"`{path}` is not an image of the demo.", "Choose another folder with --out.")
    for path, data in files.items():
        if not path.exists():
            write_bytes(path, data)


def _png(image: Tensor) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image[0].numpy()).save(stream, "PNG")
    return stream.getvalue()
