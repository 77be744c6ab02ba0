"""Find near-duplicate images.

Two images are near duplicates if their difference hashes differ in at most NEAR bits and their grey thumbnails differ
little. The 64 bits are split into NEAR + 1 bands; hashes that differ in at most NEAR bits agree in at least one band,
so only images that share a band are compared, and no pair is missed.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from graftcli.images.flat import tiles

NEAR = 5  # bits of 64
SIMILAR = 6.0  # mean difference of thumbnails, in grey levels of 255, after their means are equalised
_WIDTH, _HEIGHT = 18, 16  # of the thumbnail; the hash uses its 2x2 means, 9x8
_PLAIN = 2.0  # standard deviation of grey levels below which an image counts as plain
_TILE = 1024  # rows and columns compared at once
_BIT_COUNTS = np.array([bin(number).count("1") for number in range(2**16)], np.uint8)

Groups = tuple[tuple[str, ...], ...]
Rows = NDArray[np.intp]


@dataclass(frozen=True)
class Fingerprint:
    """The features of an image for near-duplicate search: a 64-bit hash and a thumbnail of 288 grey pixels."""

    bits: int
    thumbnail: bytes

    @property
    def plain(self) -> bool:
        """Whether the image is of a single colour, so that its hash is meaningless."""
        return float(np.frombuffer(self.thumbnail, np.uint8).std()) < _PLAIN


def compute_fingerprint(image: Image.Image) -> Fingerprint:
    """The difference hash of an image (is a pixel brighter than its left neighbour?) and its thumbnail."""
    factors = (int(image.width / _WIDTH / 2) or 1, int(image.height / _HEIGHT / 2) or 1)
    reduced = _reduced(image, factors)
    box = (0, 0, image.width / factors[0], image.height / factors[1])
    thumbnail = np.asarray(reduced.resize((_WIDTH, _HEIGHT), Image.Resampling.BOX, box))
    means = thumbnail.reshape(_HEIGHT // 2, 2, _WIDTH // 2, 2).astype(np.uint16).sum((1, 3))
    bits = np.packbits(means[:, 1:] > means[:, :-1])
    return Fingerprint(int.from_bytes(bits.tobytes(), "big"), thumbnail.tobytes())


def _reduced(image: Image.Image, factors: tuple[int, int]) -> Image.Image:
    """image.convert("L").reduce(factors), tile by tile to save memory."""
    columns, rows = factors
    whole = Image.new("L", (-(-image.width // columns), -(-image.height // rows)))
    for left, top, right, bottom in tiles(image.size, multiple=factors):
        part = image if (right - left, bottom - top) == image.size else image.crop((left, top, right, bottom))
        whole.paste(part.convert("L").reduce(factors), (left // columns, top // rows))
    return whole


def find_near_duplicates(names: Sequence[str], bits: NDArray[np.uint64], thumbnails: NDArray[np.uint8]) -> Groups:
    """Group the names of near-duplicate images, transitively; groups have at least two names.

    `thumbnails` is uint8 [images, 288].
    """
    groups = _Groups(len(names))
    for bucket in _buckets(bits):
        for rows, columns in _tiles(bucket):
            if not groups.all_joined(rows, columns):
                left, right = groups.not_joined(*_close(bits, rows, columns))
                _, first = np.unique(right, return_index=True)  # one pair per image joins most of a large group
                for pairs in ((left[first], right[first]), (left, right)):
                    groups.join(*_similar(thumbnails, *groups.not_joined(*pairs)))
    return sorted_groups([[names[i] for i in group] for group in groups.members()])


def sorted_groups(groups: Iterable[Sequence[str]]) -> Groups:
    """The groups of at least two names, sorted by their first name."""
    return tuple(sorted(tuple(sorted(group)) for group in groups if len(group) > 1))


def _buckets(bits: NDArray[np.uint64]) -> Iterator[Rows]:
    """Groups of images that share a band. Each pair at most NEAR bits apart is in at least one of them."""
    for band in range(NEAR + 1):
        # every (NEAR + 1)th bit: neighbouring bits are correlated and would fill few buckets
        mask = np.uint64(sum(1 << bit for bit in range(band, 64, NEAR + 1)))
        keys = bits & mask
        order = np.argsort(keys, kind="stable")
        starts = np.flatnonzero(np.diff(keys[order], prepend=~keys[order[:1]]))
        yield from (bucket for bucket in np.split(order, starts[1:]) if len(bucket) > 1)


def _tiles(bucket: Rows) -> Iterator[tuple[Rows, Rows]]:
    """All pairs of a bucket, in tiles, to bound memory."""
    for top in range(0, len(bucket), _TILE):
        for side in range(top, len(bucket), _TILE):
            yield bucket[top : top + _TILE], bucket[side : side + _TILE]


def _close(bits: NDArray[np.uint64], rows: Rows, columns: Rows) -> tuple[Rows, Rows]:
    """The pairs of a tile that are at most NEAR bits apart."""
    i, j = np.nonzero(_distances(bits[rows], bits[columns]) <= NEAR)
    return rows[i], columns[j]


def _distances(left: NDArray[np.uint64], right: NDArray[np.uint64]) -> NDArray[np.uint8]:
    different = np.bitwise_xor.outer(left, right)
    words = _BIT_COUNTS[different.view(np.uint16)].reshape(*different.shape, 4)
    distances: NDArray[np.uint8] = words.sum(2, dtype=np.uint8)
    return distances


def _similar(thumbnails: NDArray[np.uint8], left: Rows, right: Rows) -> tuple[Rows, Rows]:
    """The pairs whose thumbnails differ little."""
    similar = np.zeros(len(left), np.bool_)
    for start in range(0, len(left), _TILE):
        chunk = slice(start, start + _TILE)
        difference = thumbnails[left[chunk]].astype(np.float32) - thumbnails[right[chunk]]
        difference -= difference.mean(1, keepdims=True)
        similar[chunk] = np.abs(difference).mean(1) <= SIMILAR
    return left[similar], right[similar]


class _Groups:
    """A union-find over image indices."""

    def __init__(self, count: int) -> None:
        self._label = np.arange(count)
        self._members: dict[int, list[int]] = {}

    def all_joined(self, rows: Rows, columns: Rows) -> bool:
        """Whether all of these are in one group already, which is common in a large group."""
        label = self._label[rows[0]]
        return bool((self._label[rows] == label).all() and (self._label[columns] == label).all())

    def not_joined(self, left: Rows, right: Rows) -> tuple[Rows, Rows]:
        """The pairs that are in different groups."""
        different = self._label[left] != self._label[right]
        return left[different], right[different]

    def join(self, left: Rows, right: Rows) -> None:
        for i, j in zip(left.tolist(), right.tolist(), strict=True):
            self._merge(int(self._label[i]), int(self._label[j]))

    def _merge(self, first: int, second: int) -> None:
        if first != second:
            small, large = sorted((first, second), key=lambda label: len(self._group(label)))
            self._label[self._group(small)] = large
            self._members[large] = self._group(large) + self._group(small)
            self._members.pop(small, None)

    def members(self) -> list[list[int]]:
        return list(self._members.values())

    def _group(self, label: int) -> list[int]:
        return self._members.get(label, [label])
