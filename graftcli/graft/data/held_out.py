"""Split the images into training and held-out images."""

import torch

from graftcli.images import Images
from graftcli.images.rows import Pixels, rows_of


def split_images(images: Images, held_out: Images | None, seed: int) -> tuple[Pixels, Pixels]:
    """Return the training and held-out pixels; by default a tenth (at least 8) of 40 images or more is held out."""
    if held_out is not None:
        return _all_rows(images), _all_rows(held_out)
    count = held_out_count(len(images.pixels))
    order = torch.randperm(len(images.pixels), generator=torch.Generator().manual_seed(seed))
    chosen, mapped = (order[count:].sort().values, order[:count].sort().values), images.store is not None
    train, held = (rows_of(images.pixels, index, mapped=mapped) for index in chosen)
    return train, held


def _all_rows(images: Images) -> Pixels:
    if images.store is None:
        return images.pixels
    return rows_of(images.pixels, torch.arange(len(images.pixels)), mapped=True)


def held_out_count(images: int) -> int:
    """Return the number of training images that are held out without --val-images."""
    return max(8, images // 10) if images >= 40 else 0
