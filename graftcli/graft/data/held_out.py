"""Split the images into training and held-out images."""

from dataclasses import dataclass

import torch

from graftcli.images import Images
from graftcli.images.rows import Pixels, rows_of


@dataclass(frozen=True)
class GivenImages:
    """The decoded images of a run, as the user gave them."""

    train: Images
    held_out: Images | None = None  # None: a tenth of `train`
    extra: Images | None = None  # shown in a share of the training views


def split_images(images: Images, held_out: Images | None, seed: int) -> tuple[Pixels, Pixels]:
    """Return the training and held-out pixels; by default a tenth (at least 8) of 40 images or more is held out."""
    if held_out is not None:
        return all_rows(images), all_rows(held_out)
    count = held_out_count(len(images.pixels))
    order = torch.randperm(len(images.pixels), generator=torch.Generator().manual_seed(seed))
    chosen, mapped = (order[count:].sort().values, order[:count].sort().values), images.store is not None
    train, held = (rows_of(images.pixels, index, mapped=mapped) for index in chosen)
    return train, held


def all_rows(images: Images) -> Pixels:
    """Return the pixels of all images; a reference if they are in a memory-mapped file."""
    if images.store is None:
        return images.pixels
    return rows_of(images.pixels, torch.arange(len(images.pixels)), mapped=True)


def held_out_count(images: int) -> int:
    """Return the number of training images that are held out without --val-images."""
    return max(8, images // 10) if images >= 40 else 0
