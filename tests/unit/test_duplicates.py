"""Duplicate images are found, and different images are not taken for duplicates."""

import io
import itertools

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from graftcli.images.duplicates import NEAR, Fingerprint, compute_fingerprint, find_near_duplicates, sorted_groups
from tests.image_files import noise, saved


def picture(seed: int) -> Image.Image:
    """Something with large and small shapes, as photographs have."""
    rough = noise(6, 6, seed).resize((160, 120), Image.Resampling.BICUBIC)
    return Image.blend(rough, noise(120, 160, seed + 1000), 0.1)


def groups(pictures: dict[str, Image.Image]) -> tuple[tuple[str, ...], ...]:
    prints = [compute_fingerprint(image) for image in pictures.values()]
    return find_near_duplicates(list(pictures), *arrays(prints))


def arrays(prints: list[Fingerprint]) -> tuple[NDArray[np.uint64], NDArray[np.uint8]]:
    bits = np.array([one.bits for one in prints], np.uint64)
    return bits, np.frombuffer(b"".join(one.thumbnail for one in prints), np.uint8).reshape(len(prints), -1)


def test_recompressed_resized_and_brighter_copies_are_found() -> None:
    original = picture(0)
    compressed = Image.open(io.BytesIO(saved(original, "JPEG", quality=40)))
    pictures = {
        "original": original,
        "compressed": compressed,
        "smaller": original.resize((97, 71)),
        "brighter": ImageEnhance.Brightness(original).enhance(1.1),
        "other": picture(1),
    }
    assert groups(pictures) == (("brighter", "compressed", "original", "smaller"),)


def test_different_pictures_are_no_duplicates() -> None:
    assert groups({str(seed): picture(seed) for seed in range(200)}) == ()


def test_pictures_with_the_same_edges_but_other_shades_are_no_duplicates() -> None:
    ramp = np.linspace(0, 255, 64)
    steep, late = ramp, 255 * (ramp / 255) ** 6
    pictures = {
        name: Image.fromarray(np.tile(row, (64, 1)).astype(np.uint8))
        for name, row in zip("ab", (steep, late), strict=True)
    }
    assert compute_fingerprint(pictures["a"]).bits == 2**64 - 1
    assert groups(pictures) == ()


def test_every_pair_that_is_near_enough_is_found() -> None:
    generator = np.random.default_rng(3)
    base = int(generator.integers(0, 2**63, dtype=np.uint64))
    flat = bytes(range(18)) * 16
    for _ in range(200):
        flipped = sum(1 << int(bit) for bit in generator.choice(64, NEAR, replace=False))
        bits, pictures = arrays([Fingerprint(base, flat), Fingerprint(base ^ flipped, flat)])
        assert find_near_duplicates(["a", "b"], bits, pictures) == (("a", "b"),)
        further = flipped | 1 << next(bit for bit in range(64) if not flipped >> bit & 1)
        assert (
            find_near_duplicates(["a", "b"], *arrays([Fingerprint(base, flat), Fingerprint(base ^ further, flat)]))
            == ()
        )


def test_groups_are_those_of_comparing_all_with_all() -> None:
    generator = np.random.default_rng(4)
    centres = generator.integers(0, 2**63, 40, dtype=np.uint64)
    bits = np.repeat(centres, 10)
    for _ in range(4):
        bits = bits ^ (np.uint64(1) << generator.integers(0, 64, len(bits), dtype=np.uint64))
    pictures = np.tile(np.arange(288) % 256, (len(bits), 1)).astype(np.uint8)
    names = [f"{i:03}" for i in range(len(bits))]
    expected = {frozenset([name]) for name in names}
    for i, j in itertools.combinations(range(len(bits)), 2):
        if int(bits[i] ^ bits[j]).bit_count() <= NEAR:
            teacher, student = (next(group for group in expected if names[k] in group) for k in (i, j))
            expected = expected - {teacher, student} | {teacher | student}
    assert {frozenset(group) for group in find_near_duplicates(names, bits, pictures)} == {
        g for g in expected if len(g) > 1
    }


def test_thousands_of_copies_are_one_group() -> None:
    generator = np.random.default_rng(5)
    count = 3000
    bits = np.uint64(1) << generator.integers(0, 64, count, dtype=np.uint64)
    pictures = generator.integers(100, 103, (count, 288), dtype=np.uint8)
    found = find_near_duplicates([f"{i:05}" for i in range(count)], bits, pictures)
    assert [len(group) for group in found] == [count]


def test_an_image_of_one_shade_is_plain_and_noise_is_not() -> None:
    assert compute_fingerprint(Image.new("RGB", (40, 30), (200, 10, 10))).plain
    assert not compute_fingerprint(picture(0)).plain


def test_groups_stand_in_the_order_of_their_names() -> None:
    assert sorted_groups([["c", "b"], ["x"], ["z", "a"]]) == (("a", "z"), ("b", "c"))
