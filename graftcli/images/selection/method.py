"""The interface of a selection method, and of the pool in which it keeps candidates."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from graftcli.images.duplicates import Fingerprint, find_near_duplicates

SLACK = 2  # candidates kept per image to select, because duplicates are removed at the end


@dataclass(frozen=True)
class CandidateImage:
    """An image with the teacher's prediction and features."""

    index: int  # among the files of the source
    name: str
    digest: bytes  # SHA-256 of its file
    fingerprint: Fingerprint
    label: int | None = None  # the class that the teacher predicts
    confidence: float = 0.0
    feature: NDArray[np.float32] | None = None

    def rank(self, seed: int) -> bytes:
        """A random number that depends only on the seed and the content of the file, not on its name or position."""
        return hashlib.sha256(b"%d/" % seed + self.digest).digest()


class Pool(ABC):
    """Receives every image once, and keeps a bounded number of candidates."""

    def __init__(self, count: int, seed: int) -> None:
        self.count, self.seed = count, seed

    @cached_property
    def capacity(self) -> int:
        """The maximum number of candidates."""
        return SLACK * self.count + 64

    @abstractmethod
    def add(self, candidates: Sequence[CandidateImage]) -> None:
        """Add a batch of images."""

    @abstractmethod
    def ordered(self) -> list[CandidateImage]:
        """The candidates without exact duplicates, most useful first."""

    def chosen(self) -> list[CandidateImage]:
        """The selected images, without near duplicates if there are enough others."""
        candidates = self.ordered()
        duplicates = _near_duplicates(candidates)
        first = [one for number, one in enumerate(candidates) if number not in duplicates]
        return [*first, *(candidates[number] for number in sorted(duplicates))][: self.count]


def _near_duplicates(candidates: Sequence[CandidateImage]) -> set[int]:
    """The numbers of candidates that are near duplicates of an earlier one."""
    kept = [number for number, one in enumerate(candidates) if not one.fingerprint.plain]
    if len(kept) < 2:
        return set()
    bits = np.array([candidates[number].fingerprint.bits for number in kept], np.uint64)
    joined = b"".join(candidates[number].fingerprint.thumbnail for number in kept)
    thumbnails = np.frombuffer(joined, np.uint8).reshape(len(kept), -1)
    groups = find_near_duplicates([f"{number:012}" for number in kept], bits, thumbnails)
    return {int(name) for group in groups for name in group[1:]}


@dataclass(frozen=True)
class SelectionMethod:
    """A method to select images. To add one, write a file like `balanced.py` and add its name to `NAMES`.

    Parameters:
        name: The name, for flags and messages.
        about: A short description of the images that it selects.
        pool: Creates the pool for a number of images and a seed.
        needs_teacher: Whether the teacher must run on every image.
    """

    name: str
    about: str
    pool: Callable[[int, int], Pool]
    needs_teacher: bool = True
