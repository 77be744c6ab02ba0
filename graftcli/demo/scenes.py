"""Render digits as scenes: each digit at a random position among distractor patches, with uneven lighting and noise.

Centred digits are too easy: 100 of them suffice to train any network. Rendering uses integer arithmetic and numpy's
frozen `RandomState` stream, so the images are identical, byte for byte, on every machine.
"""

import numpy as np
from numpy.random import RandomState
from numpy.typing import NDArray

Numbers = NDArray[np.int64]

SIDE = 32  # height and width of a scene
_DIGIT = 16  # height and width of its digit
PATCH, PATCHES = 7, 3  # height and width of a distractor patch, and patches per scene
_INK = 256  # value of the darkest stroke, before contrast is applied
GRAIN = 8  # noise amplitude, in grey levels
SLOPE = 2  # maximum lighting gradient, in grey levels per pixel


def scenes(digits: NDArray[np.uint8], random: RandomState) -> NDArray[np.uint8]:
    """Render [N, 8, 8] strokes of 0..16 as [N, SIDE, SIDE] greyscale images; distractors come from the same digits."""
    strokes = _upsample(_upsample(digits.astype(np.int64), 1), 2)
    ink = np.zeros((len(strokes), SIDE, SIDE), np.int64)
    for scene in ink:
        for _ in range(PATCHES):
            top, left = _draw(random, 0, _DIGIT - PATCH, 2)
            distractor = strokes[_draw(random, 0, len(strokes) - 1)]
            _paste(scene, distractor[top : top + PATCH, left : left + PATCH], random)
    for scene, digit in zip(ink, strokes, strict=True):
        _paste(scene, digit, random)
    return _photograph(ink, random)


def _draw(random: RandomState, low: int, high: int, size: int | tuple[int, ...] = ()) -> Numbers:
    """Draw integers from `low` to `high`, both inclusive; the default dtype would differ between platforms."""
    values: Numbers = random.randint(low, high + 1, size, dtype=np.int64)
    return values


def _upsample(strokes: Numbers, axis: int) -> Numbers:
    """Upsample one axis bilinearly by 2 and scale by 4: three times the nearer value plus the farther one."""
    length = strokes.shape[axis]
    before = strokes.take(np.maximum(np.arange(length) - 1, 0), axis)
    after = strokes.take(np.minimum(np.arange(length) + 1, length - 1), axis)
    pairs = np.stack([3 * strokes + before, 3 * strokes + after], axis + 1)
    return pairs.reshape([2 * n if i == axis else n for i, n in enumerate(strokes.shape)])


def _paste(scene: Numbers, patch: Numbers, random: RandomState) -> None:
    """Paste the patch at a random position of the scene."""
    size = len(patch)
    top, left = _draw(random, 0, SIDE - size, 2)
    scene[top : top + size, left : left + size] = patch


def _photograph(ink: Numbers, random: RandomState) -> NDArray[np.uint8]:
    """Apply random paper and ink grey levels, a lighting gradient and noise; invert half of the images."""
    per_image = (len(ink), 1, 1)
    paper, contrast = _draw(random, 0, 89, per_image), _draw(random, 90, 165, per_image)
    offset = np.arange(SIDE) - SIDE // 2
    light = _draw(random, -SLOPE, SLOPE, per_image) * offset[:, None] + _draw(random, -SLOPE, SLOPE, per_image) * offset
    grey = paper + ink * contrast // _INK + light + _draw(random, -GRAIN, GRAIN, ink.shape)
    grey = grey.clip(0, 255)
    return np.where(_draw(random, 0, 1, per_image) == 1, 255 - grey, grey).astype(np.uint8)
