"""Hostile images, the short form: each is read or broken by name, within bounds, and no other image suffers."""

import warnings
from pathlib import Path

import numpy as np
import pytest

from graftcli.images import Preprocess, load
from graftcli.images.limits import Limits, MemoryBudget
from graftcli.images.statistics import collect_statistics
from tests.hostile.image_bombs import BOMBS
from tests.hostile.image_mutations import Hostile, hostile
from tests.hostile.measured import MOST_MEMORY, outcomes
from tests.image_files import noise, saved

PREPROCESS = Preprocess((32, 32), 3, (0.5,) * 3, (0.25,) * 3, 0.875, "bilinear")
SOUND = ("sound0.png", "sound1.jpg")


def sound(folder: Path) -> Path:
    """Two images between which a hostile one is put."""
    folder.mkdir(exist_ok=True)
    for seed, name in enumerate(SOUND):
        (folder / name).write_bytes(saved(noise(40, 40, seed), "PNG" if name.endswith("png") else "JPEG"))
    return folder


def outcome_of(folder: Path, one: Hostile) -> str:
    """What a folder with this image comes to, in a word; the others must be read, and a census must agree."""
    path = folder / one.name
    path.write_bytes(one.data)
    try:
        found, census = (
            load(folder, PREPROCESS, jobs=2),
            collect_statistics(folder, PREPROCESS, on_batch=lambda batch: None, jobs=2),
        )
    finally:
        path.unlink()
    assert set(SOUND) <= set(found.names) and census.images == len(found.names)
    assert [broken.name for broken in found.broken] == [broken.name for broken in census.broken]
    if one.name in found.names:
        return "read"
    (broken,) = found.broken
    assert broken.name == one.name and broken.reason and broken.reason.isprintable()
    return "broken by name"


def test_damaged_images_are_read_or_broken_by_name(tmp_path: Path) -> None:
    folder = sound(tmp_path / "images")
    seeds = [seed for seed in range(360) if seed % 40]
    found = list(outcomes([str(seed) for seed in seeds], lambda seed: outcome_of(folder, hostile(int(seed)))))
    assert [one for one in found if one.word not in ("read", "broken by name")] == []
    assert {one.word for one in found} == {"read", "broken by name"}
    assert max(one.memory for one in found) < MOST_MEMORY and len(found) == len(seeds)


# a second each, where the others take several
QUICK = [kind for kind in BOMBS if not any(word in kind for word in ("000x", "480", "scans", "170 million", "EXIF"))]


def test_bombs_are_read_or_broken_by_name_within_bounds(tmp_path: Path) -> None:
    folder = sound(tmp_path / "images")

    def run(kind: str) -> str:
        suffix, data = BOMBS[kind]()
        return outcome_of(folder, Hostile(kind, f"bomb.{suffix}", data))

    found = list(outcomes(QUICK, run))
    assert [one for one in found if one.word not in ("read", "broken by name")] == []
    assert max(one.memory for one in found) < MOST_MEMORY and len(QUICK) > 10


def test_four_images_of_16_bits_stay_below_two_gigabytes_together(tmp_path: Path) -> None:
    folder = sound(tmp_path / "images")
    suffix, data = BOMBS["PNG of 13000x13000 in 16 bits"]()
    for name in "abcd":
        (folder / f"{name}.{suffix}").write_bytes(data)

    def run(case: str) -> str:
        found = load(folder, PREPROCESS, jobs=4)
        return f"{len(found.names)} read, {len(found.broken)} broken"

    (one,) = outcomes(["four"], run, limit=60)
    assert one.word == "6 read, 0 broken" and one.memory < MOST_MEMORY


def test_a_folder_of_images_beyond_the_budget_names_each(tmp_path: Path) -> None:
    folder = sound(tmp_path / "images")
    for name in "ab":
        (folder / f"{name}.png").write_bytes(saved(noise(900, 900)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = load(folder, PREPROCESS, jobs=4, limits=Limits(MemoryBudget(2**20)))
    assert [broken.name for broken in found.broken] == ["a.png", "b.png"]
    assert all("of memory; the limit is 1 MiB" in broken.reason for broken in found.broken)


@pytest.mark.parametrize("seed", range(3))
def test_a_hostile_image_is_the_same_again(seed: int) -> None:
    assert hostile(seed + 1) == hostile(seed + 1)


def test_pixels_do_not_depend_on_the_budget_of_what_fits_it(tmp_path: Path) -> None:
    folder = sound(tmp_path / "images")
    one, other = load(folder, PREPROCESS), load(folder, PREPROCESS, limits=Limits(MemoryBudget(2**20)), jobs=3)
    assert np.array_equal(one.pixels.numpy(), other.pixels.numpy())
