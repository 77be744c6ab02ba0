"""Which images show the same: byte for byte, or nearly.

Nearly the same are two images whose difference hashes are at most NEAR bits apart and whose small grey pictures differ
by little. Every such pair is found without comparing all with all: 64 bits in NEAR + 1 bands, of which one at least is
equal where no more than NEAR bits differ, so only images that share a band are compared.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from graftcli.images.flat import tiles

NEAR = 5  # bits of 64
ALIKE = 6.0  # of 255 grey levels, on average, with the brightness of both the same
_WIDTH, _HEIGHT = 18, 16  # of the small picture; the hash is taken from its 2x2 means, 9x8
_PLAIN = 2.0  # standard deviation of grey levels below which a picture shows nothing
_TILE = 1024  # rows and columns compared at once
_BITS = np.array([bin(number).count("1") for number in range(2**16)], np.uint8)

Groups = tuple[tuple[str, ...], ...]
Rows = NDArray[np.intp]


@dataclass(frozen=True)
class Fingerprint:
    """What is remembered of an image to find it again: 64 bits, and a picture of 288 grey pixels."""

    bits: int
    picture: bytes

    @property
    def plain(self) -> bool:
        """Whether the image is of one shade: then it resembles every other such image, and its bits say nothing."""
        return float(np.frombuffer(self.picture, np.uint8).std()) < _PLAIN


def fingerprint(image: Image.Image) -> Fingerprint:
    """The difference hash (is a pixel brighter than its left neighbour?) of the image, and what it was taken from."""
    factors = (int(image.width / _WIDTH / 2) or 1, int(image.height / _HEIGHT / 2) or 1)
    reduced = _reduced(image, factors)
    box = (0, 0, image.width / factors[0], image.height / factors[1])
    picture = np.asarray(reduced.resize((_WIDTH, _HEIGHT), Image.Resampling.BOX, box))
    means = picture.reshape(_HEIGHT // 2, 2, _WIDTH // 2, 2).astype(np.uint16).sum((1, 3))
    bits = np.packbits(means[:, 1:] > means[:, :-1])
    return Fingerprint(int.from_bytes(bits.tobytes(), "big"), picture.tobytes())


def _reduced(image: Image.Image, factors: tuple[int, int]) -> Image.Image:
    """image.convert("L").reduce(factors), a tile at a time: a grey copy of a large image would double its memory."""
    columns, rows = factors
    whole = Image.new("L", (-(-image.width // columns), -(-image.height // rows)))
    for left, top, right, bottom in tiles(image.size, multiple=factors):
        part = image if (right - left, bottom - top) == image.size else image.crop((left, top, right, bottom))
        whole.paste(part.convert("L").reduce(factors), (left // columns, top // rows))
    return whole


def near(names: Sequence[str], bits: NDArray[np.uint64], pictures: NDArray[np.uint8]) -> Groups:
    """The names of images that are nearly the same, or are so to a third one, in groups of two or more.

    `pictures` is uint8 [images, 288].
    """
    groups = _Groups(len(names))
    for bucket in _buckets(bits):
        for rows, columns in _tiles(bucket):
            if not groups.together(rows, columns):
                left, right = groups.apart(*_close(bits, rows, columns))
                _, first = np.unique(right, return_index=True)  # in a crowd, one pair for each joins nearly all
                for pairs in ((left[first], right[first]), (left, right)):
                    groups.join(*_alike(pictures, *groups.apart(*pairs)))
    return ordered([[names[i] for i in group] for group in groups.members()])


def ordered(groups: Iterable[Sequence[str]]) -> Groups:
    """The groups of two or more, in the order of their first names."""
    return tuple(sorted(tuple(sorted(group)) for group in groups if len(group) > 1))


def _buckets(bits: NDArray[np.uint64]) -> Iterator[Rows]:
    """Images that share a band: each pair at most NEAR bits apart is in one of them at least."""
    for band in range(NEAR + 1):
        # every (NEAR + 1)th bit, for neighbouring bits say much the same and would fill few buckets
        mask = np.uint64(sum(1 << bit for bit in range(band, 64, NEAR + 1)))
        keys = bits & mask
        order = np.argsort(keys, kind="stable")
        starts = np.flatnonzero(np.diff(keys[order], prepend=~keys[order[:1]]))
        yield from (bucket for bucket in np.split(order, starts[1:]) if len(bucket) > 1)


def _tiles(bucket: Rows) -> Iterator[tuple[Rows, Rows]]:
    """All pairs of a bucket, so that one of any size needs little memory."""
    for top in range(0, len(bucket), _TILE):
        for side in range(top, len(bucket), _TILE):
            yield bucket[top : top + _TILE], bucket[side : side + _TILE]


def _close(bits: NDArray[np.uint64], rows: Rows, columns: Rows) -> tuple[Rows, Rows]:
    """The pairs of a tile that are at most NEAR bits apart."""
    i, j = np.nonzero(_distances(bits[rows], bits[columns]) <= NEAR)
    return rows[i], columns[j]


def _distances(left: NDArray[np.uint64], right: NDArray[np.uint64]) -> NDArray[np.uint8]:
    different = np.bitwise_xor.outer(left, right)
    counted: NDArray[np.uint8] = _BITS[different.view(np.uint16)].reshape(*different.shape, 4).sum(2, dtype=np.uint8)
    return counted


def _alike(pictures: NDArray[np.uint8], left: Rows, right: Rows) -> tuple[Rows, Rows]:
    """Those pairs whose small pictures differ by little."""
    alike = np.zeros(len(left), np.bool_)
    for start in range(0, len(left), _TILE):
        some = slice(start, start + _TILE)
        difference = pictures[left[some]].astype(np.float32) - pictures[right[some]]
        difference -= difference.mean(1, keepdims=True)
        alike[some] = np.abs(difference).mean(1) <= ALIKE
    return left[alike], right[alike]


class _Groups:
    """Who belongs together, while pairs come in."""

    def __init__(self, count: int) -> None:
        self._label = np.arange(count)
        self._members: dict[int, list[int]] = {}

    def together(self, rows: Rows, columns: Rows) -> bool:
        """Whether all of these are joined already, as in a crowd they soon are."""
        label = self._label[rows[0]]
        return bool((self._label[rows] == label).all() and (self._label[columns] == label).all())

    def apart(self, left: Rows, right: Rows) -> tuple[Rows, Rows]:
        """The pairs that are not joined yet; an image and itself are no pair."""
        different = self._label[left] != self._label[right]
        return left[different], right[different]

    def join(self, left: Rows, right: Rows) -> None:
        for i, j in zip(left.tolist(), right.tolist(), strict=True):
            self._merge(int(self._label[i]), int(self._label[j]))

    def _merge(self, one: int, other: int) -> None:
        if one != other:
            small, large = sorted((one, other), key=lambda label: len(self._of(label)))
            self._label[self._of(small)] = large
            self._members[large] = self._of(large) + self._of(small)
            self._members.pop(small, None)

    def members(self) -> list[list[int]]:
        return list(self._members.values())

    def _of(self, label: int) -> list[int]:
        return self._members.get(label, [label])
