"""Split the images into training and held-out images."""

import torch
from torch import Tensor

from graftcli.images import Images


def split_images(images: Images, held_out: Images | None, seed: int) -> tuple[Tensor, Tensor]:
    """Return the training and held-out pixels; by default a tenth (at least 8) of 40 images or more is held out."""
    if held_out is not None:
        return images.pixels, held_out.pixels
    count = held_out_count(len(images.pixels))
    order = torch.randperm(len(images.pixels), generator=torch.Generator().manual_seed(seed))
    return images.pixels[order[count:].sort().values], images.pixels[order[:count].sort().values]


def held_out_count(images: int) -> int:
    """Return the number of training images that are held out without --val-images."""
    return max(8, images // 10) if images >= 40 else 0
