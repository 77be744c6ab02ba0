"""A digit -> a scene: the digit somewhere in a larger picture, scraps of other digits around it, ink and light uneven.

A lone centred digit is so easy that 100 of them teach any network; a scene has to be searched. Whole numbers alone,
from a random stream that numpy keeps frozen: the same pictures, byte for byte, on every machine.
"""

import numpy as np
from numpy.random import RandomState
from numpy.typing import NDArray

Numbers = NDArray[np.int64]

SIDE = 32  # of a scene
DIGIT = 16  # of the digit in it
SCRAP, SCRAPS = 7, 3  # the side of a scrap, and how many a scene has
INK = 256  # the darkest stroke, before it is given a grey
GRAIN = 8  # grey levels of noise, up and down
SLOPE = 2  # grey levels that the light may change from one pixel to the next


def scenes(digits: NDArray[np.uint8], random: RandomState) -> NDArray[np.uint8]:
    """[N, 8, 8] strokes of 0..16 -> [N, SIDE, SIDE] grey pictures; the scraps are of these digits too."""
    strokes = _twice(_twice(digits.astype(np.int64), 1), 2)
    ink = np.zeros((len(strokes), SIDE, SIDE), np.int64)
    for scene in ink:
        for _ in range(SCRAPS):
            top, left = _draw(random, 0, DIGIT - SCRAP, 2)
            scrap = strokes[_draw(random, 0, len(strokes) - 1)]
            _paste(scene, scrap[top : top + SCRAP, left : left + SCRAP], random)
    for scene, digit in zip(ink, strokes, strict=True):
        _paste(scene, digit, random)
    return _photographed(ink, random)


def _draw(random: RandomState, low: int, high: int, size: int | tuple[int, ...] = ()) -> Numbers:
    """Whole numbers from `low` to `high`, both included; the type is named since its default differs by machine."""
    drawn: Numbers = random.randint(low, high + 1, size, dtype=np.int64)
    return drawn


def _twice(strokes: Numbers, axis: int) -> Numbers:
    """Bilinearly twice as long, times four: 3/4 of the nearer number and 1/4 of the other one."""
    length = strokes.shape[axis]
    before = strokes.take(np.maximum(np.arange(length) - 1, 0), axis)
    after = strokes.take(np.minimum(np.arange(length) + 1, length - 1), axis)
    pairs = np.stack([3 * strokes + before, 3 * strokes + after], axis + 1)
    return pairs.reshape([2 * n if i == axis else n for i, n in enumerate(strokes.shape)])


def _paste(scene: Numbers, patch: Numbers, random: RandomState) -> None:
    """The patch somewhere in the scene, over what was there."""
    size = len(patch)
    top, left = _draw(random, 0, SIDE - size, 2)
    scene[top : top + size, left : left + size] = patch


def _photographed(ink: Numbers, random: RandomState) -> NDArray[np.uint8]:
    """Paper and ink of any grey, lit from one side, with noise; half of them as negatives."""
    each = (len(ink), 1, 1)
    paper, contrast = _draw(random, 0, 89, each), _draw(random, 90, 165, each)
    away = np.arange(SIDE) - SIDE // 2
    light = _draw(random, -SLOPE, SLOPE, each) * away[:, None] + _draw(random, -SLOPE, SLOPE, each) * away
    grey = paper + ink * contrast // INK + light + _draw(random, -GRAIN, GRAIN, ink.shape)
    grey = grey.clip(0, 255)
    return np.where(_draw(random, 0, 1, each) == 1, 255 - grey, grey).astype(np.uint8)
