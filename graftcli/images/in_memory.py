"""Images that a caller has in memory (a Dataset, a list of PIL images or tensors) as a folder of PNG files.

The folder is named by its content, so the same images give the same folder, and an interrupted run is resumed.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sized
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from graftcli.errors import ImagesError

_KEYS = ("image", "img", "pixel_values")  # of items that are mappings, as those of Hugging Face datasets


def folder_of(images: str | Path | Iterable[Any]) -> Path:
    """The path itself, or a folder in the cache to which the images are written losslessly."""
    if isinstance(images, str | Path):
        return Path(images)
    if not isinstance(images, Iterable) and not hasattr(images, "__getitem__"):
        found = f"the images are given as {type(images).__name__}."
        raise ImagesError(found, "Give a path, or an iterable of PIL images or tensors.")
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "graftcli" / "images"
    root.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    scratch = Path(tempfile.mkdtemp(dir=root, prefix=".writing-"))
    try:
        for index, item in enumerate(_items(images)):
            pixels = _pixels(item, index)
            digest.update(repr(pixels.shape).encode() + pixels.tobytes())
            Image.fromarray(pixels).save(scratch / f"{index:06d}.png", compress_level=1)
        folder = root / digest.hexdigest()[:16]
        if not folder.exists():
            scratch.rename(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def _items(images: Iterable[Any]) -> Iterable[Any]:
    """The items of an iterable, or of a map-style Dataset, which has only `__len__` and `__getitem__`."""
    if isinstance(images, Sized) and hasattr(images, "__getitem__") and not isinstance(images, Mapping):
        return (images[index] for index in range(len(images)))
    return images


def _pixels(item: object, index: int) -> NDArray[np.uint8]:
    """The image of an item, which may be a tuple or a mapping, as uint8 [height, width] or [height, width, 3]."""
    if isinstance(item, Mapping):
        item = next((item[key] for key in _KEYS if key in item), item)
    if isinstance(item, tuple | list) and item:
        item = item[0]
    if isinstance(item, Image.Image):
        return np.asarray(item if item.mode in ("L", "RGB") else item.convert("RGB"))
    if isinstance(item, torch.Tensor) and item.ndim == 3 and item.shape[0] in (1, 3):
        return _of_tensor(item, index)
    shape = f" of shape {tuple(item.shape)}" if isinstance(item, torch.Tensor) else ""
    raise ImagesError(
        f"item {index} of the images has type {type(item).__name__}{shape}.",
        "Give PIL images, or tensors [1 or 3, height, width], or tuples that begin with one.",
    )


def _of_tensor(tensor: torch.Tensor, index: int) -> NDArray[np.uint8]:
    if tensor.dtype != torch.uint8:
        low, high = float(tensor.min()), float(tensor.max())
        if not (tensor.is_floating_point() and 0 <= low <= high <= 1):
            raise ImagesError(
                f"item {index} of the images is {tensor.dtype} from {low:g} to {high:g}.",
                "Give uint8 tensors, or float tensors from 0 to 1 that are not normalised yet.",
            )
        tensor = (tensor * 255).round().to(torch.uint8)
    pixels = tensor.cpu().permute(1, 2, 0).contiguous().numpy()
    return pixels[..., 0] if pixels.shape[-1] == 1 else pixels
