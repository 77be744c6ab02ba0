"""A selection of the rows in a memory-mapped file of images, without a copy."""

from collections.abc import Iterator

import torch
from torch import Tensor


class ImageRows:
    """The rows `index` of `pixels`, read on access and indexed as the tensor `pixels[index]`, then optional `extra`
    images.
    """

    def __init__(self, pixels: Tensor, index: Tensor, extra: Tensor | None = None) -> None:
        self._pixels, self._index = pixels, index
        self._extra = pixels[:0] if extra is None else extra

    def __len__(self) -> int:
        return len(self._index) + len(self._extra)

    @property
    def shape(self) -> torch.Size:
        """The shape of all rows as one tensor."""
        return torch.Size((len(self), *self._pixels.shape[1:]))

    @property
    def device(self) -> torch.device:
        """The device of the rows that are read."""
        return self._pixels.device

    @property
    def dtype(self) -> torch.dtype:
        """The type of the pixels."""
        return self._pixels.dtype

    def __getitem__(self, index: Tensor | slice) -> Tensor:
        rows = torch.arange(len(self))[index] if isinstance(index, slice) else index
        is_extra = rows >= len(self._index)
        if not bool(is_extra.any()):
            return self._pixels[self._index[rows]]
        found = torch.empty(len(rows), *self.shape[1:], dtype=self.dtype)
        found[is_extra] = self._extra[rows[is_extra] - len(self._index)]
        found[~is_extra] = self._pixels[self._index[rows[~is_extra]]]
        return found

    def __iter__(self) -> Iterator[Tensor]:
        return (self[torch.tensor([row])][0] for row in range(len(self)))

    def with_extra(self, extra: Tensor) -> "ImageRows":
        """The same rows, followed by `extra` images."""
        return ImageRows(self._pixels, self._index, torch.cat([self._extra, extra]))


Pixels = Tensor | ImageRows  # uint8 [images, channels, height, width]


def rows_of(pixels: Tensor, index: Tensor, *, mapped: bool) -> Pixels:
    """The rows `index`: a copy if the images are in memory, a reference if they are in a memory-mapped file."""
    return ImageRows(pixels, index) if mapped else pixels[index]


def with_extra(pixels: Pixels, extra: Pixels) -> Pixels:
    """The images, followed by `extra` ones, which are copied into memory."""
    extra = extra[:]
    return pixels.with_extra(extra) if isinstance(pixels, ImageRows) else torch.cat([pixels, extra.to(pixels.device)])
