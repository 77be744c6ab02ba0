"""Image files that tests share."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def noise(height: int, width: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def saved(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def ramp16(height: int = 16, width: int = 24) -> Image.Image:
    """A 16-bit grey ramp from black to white."""
    return Image.fromarray(np.linspace(0, 65535, height * width).reshape(height, width).astype(np.uint16))


def folder_of(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def photos(root: Path, names: list[str]) -> Path:
    """Files with different noise of 32 x 32 pixels."""
    return folder_of(root, {name: saved(noise(32, 32, seed)) for seed, name in enumerate(names)})


def real_data(part: str) -> Path:
    """A folder of real images; without them, the calling test is skipped."""
    if not (root := os.environ.get("GRAFTCLI_DATA")):
        pytest.skip("GRAFTCLI_DATA names no folder of real images")
    return Path(root) / part
