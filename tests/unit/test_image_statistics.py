"""Statistics of a folder of images."""

import hashlib
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from graftcli import images
from graftcli.errors import ImagesError
from graftcli.images.pixels import Preprocess
from graftcli.images.statistics import collect_statistics, find_duplicates
from tests.image_files import folder_of, noise, ramp16, saved

PREPROCESS = Preprocess((16, 16), 3, (0.5,) * 3, (0.25,) * 3, 1.0, "bilinear")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shot = saved(noise(20, 30))
    files = {
        "a.png": shot,
        "deep/copy of a.png": shot,
        "b.jpg": saved(noise(40, 40, 1), "JPEG"),
        "grey.png": saved(noise(8, 60, 2).convert("L")),
        "ramp.png": saved(ramp16(20, 30)),
        "white.png": saved(Image.new("RGB", (30, 20), "white")),
        "torn.png": shot[:200],
        "empty.jpg": b"",
        "notes.txt": b"no image",
    }
    return folder_of(tmp_path / "photos", files)


def test_everything_is_counted_and_broken_files_are_named(folder: Path) -> None:
    found = collect_statistics(folder, PREPROCESS)
    assert found.images == 6
    assert [one.name for one in found.broken] == ["empty.jpg", "torn.png"]
    assert found.formats == {"PNG": 5, "JPEG": 1}
    assert found.modes == {"RGB": 4, "L": 1, "I;16": 1}
    assert found.exact == (("a.png", "deep/copy of a.png"),)
    assert (found.copies, found.near_copies) == (1, 0)
    assert found.plain == ("white.png",)
    assert found.enlarged == 1  # 60x8, where 16x16 is seen
    sizes = found.sizes
    assert (sizes.smallest, sizes.median, sizes.largest, sizes.different) == ((60, 8), (30, 20), (40, 40), 3)
    assert sizes.common[0] == ((30, 20), 4)


def test_what_is_seen_is_what_a_run_would_load(folder: Path) -> None:
    parts: list[Tensor] = []
    collect_statistics(folder, PREPROCESS, on_batch=parts.append, batch=4)
    assert [len(part) for part in parts] == [4, 2]
    loaded = images.load(folder, PREPROCESS).pixels
    assert {hashlib.sha256(row.numpy().tobytes()).digest() for row in torch.cat(parts)} == {
        hashlib.sha256(row.numpy().tobytes()).digest() for row in loaded
    }


def test_image_sizes_are_not_judged_without_a_network(folder: Path) -> None:
    assert collect_statistics(folder, None).enlarged is None


def test_progress_counts_every_file_broken_ones_too(folder: Path) -> None:
    progress: list[tuple[int, int]] = []
    collect_statistics(folder, PREPROCESS, on_progress=lambda done, total: progress.append((done, total)))
    assert progress == [(i, 8) for i in range(1, 9)]


def test_a_folder_without_images_says_what_it_holds(tmp_path: Path) -> None:
    folder_of(tmp_path, {"a.txt": b"", "b.png": b"no picture"})
    with pytest.raises(ImagesError, match=r"2 files were checked \(1 \.\w+, 1 \.\w+\)") as caught:
        collect_statistics(tmp_path, PREPROCESS)
    assert "b.png: it is damaged" in caught.value.message


def test_images_of_one_shade_alone_are_counted_too(tmp_path: Path) -> None:
    files = {f"{shade}.png": saved(Image.new("RGB", (30, 20), shade)) for shade in ("red", "white")}
    found = collect_statistics(folder_of(tmp_path, files), PREPROCESS)
    assert (found.plain, found.near) == (("red.png", "white.png"), ())


def test_images_in_memory_are_compared_too() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8, generator=generator)
    rows[2] = rows[0]
    rows[3] = rows[1]
    rows[3, :, 0, 0] ^= 1
    assert find_duplicates(rows, ("a", "b", "c", "d")) == ((("a", "c"),), (("b", "d"),))
