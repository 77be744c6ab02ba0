"""What a method of selection provides, and the pool in which it keeps candidates."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from graftcli.images.duplicates import Fingerprint, find_near_duplicates

SLACK = 2  # candidates kept per image that is wanted, because duplicates are left out in the end


@dataclass(frozen=True)
class Candidate:
    """An image, and what the teacher says of it."""

    index: int  # among the files of the source
    name: str
    digest: bytes  # SHA-256 of its file
    fingerprint: Fingerprint
    label: int | None = None  # the class that the teacher predicts
    confidence: float = 0.0
    feature: NDArray[np.float32] | None = None

    def rank(self, seed: int) -> bytes:
        """A random number that depends on the seed and the file alone: neither on its name nor on its place."""
        return hashlib.sha256(b"%d/" % seed + self.digest).digest()


class Pool(ABC):
    """Sees every image once, and keeps a bounded number of candidates."""

    def __init__(self, count: int, seed: int) -> None:
        self.count, self.seed = count, seed

    @cached_property
    def room(self) -> int:
        """How many candidates are kept."""
        return SLACK * self.count + 64

    @abstractmethod
    def add(self, candidates: Sequence[Candidate]) -> None:
        """Look at a batch of images."""

    @abstractmethod
    def ordered(self) -> list[Candidate]:
        """The candidates without exact duplicates, of which any first few are a good choice."""

    def chosen(self) -> list[Candidate]:
        """The choice, without near duplicates where there are enough others."""
        candidates = self.ordered()
        followers = _near_duplicates(candidates)
        first = [one for number, one in enumerate(candidates) if number not in followers]
        return [*first, *(candidates[number] for number in sorted(followers))][: self.count]


def _near_duplicates(candidates: Sequence[Candidate]) -> set[int]:
    """The numbers of candidates that look like one before them."""
    kept = [number for number, one in enumerate(candidates) if not one.fingerprint.plain]
    if len(kept) < 2:
        return set()
    bits = np.array([candidates[number].fingerprint.bits for number in kept], np.uint64)
    joined = b"".join(candidates[number].fingerprint.thumbnail for number in kept)
    thumbnails = np.frombuffer(joined, np.uint8).reshape(len(kept), -1)
    groups = find_near_duplicates([f"{number:012}" for number in kept], bits, thumbnails)
    return {int(name) for group in groups for name in group[1:]}


@dataclass(frozen=True)
class Method:
    """A way to select images. A file like `balanced.py`, and its name in `NAMES`, adds one.

    Parameters:
        name: Its name, for flags and messages.
        about: What it keeps, in a few words.
        pool: Makes the pool for a number of images and a seed.
        needs_teacher: Whether the teacher must look at every image.
    """

    name: str
    about: str
    pool: Callable[[int, int], Pool]
    needs_teacher: bool = True
