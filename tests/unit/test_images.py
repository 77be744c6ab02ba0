"""Images are decoded once, in an order that no name determines; broken files are named and skipped."""

import hashlib
import os
import random
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from graftcli.errors import ImagesError, MachineError
from graftcli.images import Images, Preprocess, load
from graftcli.images.limits import Limits
from graftcli.images.pixels import decode
from tests.image_files import folder_of, noise, ramp16, real_data, saved

PREPROCESS = Preprocess((16, 16), 3, (0.5,) * 3, (0.25,) * 3, 0.875, "bilinear")


def plain(count: int) -> dict[str, bytes]:
    return {f"{i:03}.png": saved(noise(20, 24, seed=i)) for i in range(count)}


def odd() -> dict[str, bytes]:
    """One good image of every unusual kind."""
    image, exif = noise(30, 22, seed=1000), Image.Exif()
    exif[0x0112] = 6
    grey = image.convert("L")
    frames = [noise(20, 20, seed=s) for s in (1001, 1002)]
    return {
        "exif.jpg": saved(image, "JPEG", exif=exif),
        "progressive.JPEG": saved(image, "JPEG", progressive=True, quality=80),
        "cmyk.jpg": saved(image.convert("CMYK"), "JPEG"),
        "grey.jpg": saved(grey, "JPEG"),
        "grey.png": saved(grey),
        "grey16.png": saved(ramp16()),
        "grey16.tif": saved(ramp16(20, 20), "TIFF"),
        "grey32.tiff": saved(Image.fromarray(np.arange(400, dtype=np.int32).reshape(20, 20)), "TIFF"),
        "float.tif": saved(Image.fromarray(np.linspace(0, 1, 400, dtype=np.float32).reshape(20, 20)), "TIFF"),
        "lzw.tif": saved(image, "TIFF", compression="tiff_lzw"),
        "bit.png": saved(grey.convert("1")),
        "palette.png": saved(image.quantize(17)),
        "palette-clear.png": saved(image.quantize(18), transparency=3),
        "rgba.png": saved(image.convert("RGBA")),
        "la.png": saved(grey.convert("LA")),
        "lossy.webp": saved(image, "WEBP"),
        "animated.webp": saved(frames[0], "WEBP", save_all=True, append_images=frames[1:]),
        "animated.GIF": saved(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "plain.bmp": saved(image, "BMP"),
        "really-a-png.jpg": saved(noise(9, 9, seed=1003)),
        "dot.png": saved(noise(1, 1, seed=1004)),
        "thin.png": saved(noise(200, 2, seed=1005)),
    }


def bomb() -> bytes:
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", len(header)) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))


BROKEN = {
    "cut.jpg": (saved(noise(60, 60), "JPEG")[:1500], "it is truncated"),
    "cut.png": (saved(noise(60, 60))[:5000], "it is truncated"),
    "cut.webp": (saved(noise(60, 60), "WEBP")[:900], "is damaged"),
    "empty.png": (b"", "the file is empty"),
    "text.jpg": (b"hello, this is text", "it begins with b'hello, this '"),
    "page.gif": (b"<!DOCTYPE html><html>", "it begins with b'<!DOCTYPE ht'"),
    "bomb.png": (bomb(), "3600000000 pixels"),
    "phone.heic": (b"\0\0\0\x18ftypheic", "convert it to PNG or JPEG"),
}


def same(one: Images, other: Images) -> bool:
    return torch.equal(one.pixels, other.pixels) and one.digest == other.digest


def test_two_hundred_images_of_every_kind(tmp_path: Path) -> None:
    good = plain(200 - len(odd())) | {f"odd/{name}": data for name, data in odd().items()}
    assert len(good) == 200
    folder_of(tmp_path, good | {f"broken/{name}": data for name, (data, _) in BROKEN.items()})
    os.mkfifo(tmp_path / "broken/pipe.jpg")
    progress: list[tuple[int, int]] = []
    images = load(tmp_path, PREPROCESS, on_progress=lambda done, total: progress.append((done, total)))

    assert images.pixels.shape == (200, 3, 16, 16) and images.pixels.dtype == torch.uint8
    assert images.pixels.is_contiguous()
    assert sorted(images.names) == sorted(good)
    for name, pixels in zip(images.names, images.pixels, strict=True):
        assert np.array_equal(pixels.numpy(), decode(good[name], PREPROCESS)), name
    digests = sorted(hashlib.sha256(data).digest() for data in good.values())
    assert [hashlib.sha256(good[name]).digest() for name in images.names] == digests
    assert images.digest == hashlib.sha256(b"".join(digests)).hexdigest()

    expected = {name: reason for name, (_, reason) in BROKEN.items()} | {"pipe.jpg": "named pipe"}
    assert [one.name for one in images.broken] == sorted(f"broken/{name}" for name in expected)
    for one in images.broken:
        assert expected[one.name.removeprefix("broken/")] in one.reason
    assert progress == [(done, 209) for done in range(1, 210)]


def test_strict_names_every_broken_image(tmp_path: Path) -> None:
    folder_of(tmp_path, plain(3) | {name: data for name, (data, _) in BROKEN.items()})
    with pytest.raises(ImagesError) as caught:
        load(tmp_path, PREPROCESS, strict=True)
    assert f"{len(BROKEN)} of {3 + len(BROKEN)} images" in caught.value.message and caught.value.exit_code == 5
    for name, (_, reason) in BROKEN.items():
        assert f"  {name}: " in caught.value.message and reason in caught.value.message


def test_strict_gives_the_same_where_nothing_is_broken(tmp_path: Path) -> None:
    folder_of(tmp_path, plain(5))
    assert same(load(tmp_path, PREPROCESS, strict=True), load(tmp_path, PREPROCESS))


def test_of_many_files_the_requested_number_is_read(tmp_path: Path) -> None:
    folder_of(tmp_path, {f"{i % 4}/{name}": data for i, (name, data) in enumerate(plain(20).items())})
    few = load(tmp_path, PREPROCESS, max_images=8)
    assert len(few.pixels) == 8 and {name[0] for name in few.names} == set("0123")
    assert same(load(tmp_path, PREPROCESS, max_images=20), load(tmp_path, PREPROCESS))


def test_names_and_threads_change_no_pixel_and_no_place(tmp_path: Path) -> None:
    files = [*(plain(12) | odd()).items(), ("twin.png", plain(1)["000.png"])]
    one = load(folder_of(tmp_path / "flat", dict(files)), PREPROCESS, jobs=1)
    random.Random(0).shuffle(files)
    renamed = {f"class-{i % 5}/{i}.{name.rsplit('.')[1]}": data for i, (name, data) in enumerate(files)}
    other = load(folder_of(tmp_path / "nested", renamed), PREPROCESS, jobs=7)
    assert same(one, other) and one.names != other.names


def test_broken_images_change_nothing_else(tmp_path: Path) -> None:
    one = load(folder_of(tmp_path / "good", plain(9)), PREPROCESS)
    mixed = plain(9) | {f"{i:03}b.png": data for i, (data, _) in enumerate(BROKEN.values())}
    other = load(folder_of(tmp_path / "mixed", mixed), PREPROCESS)
    assert same(one, other) and one.names == other.names and len(other.broken) == len(BROKEN)


def test_another_image_is_another_digest(tmp_path: Path) -> None:
    files = plain(4)
    one = load(folder_of(tmp_path / "one", files), PREPROCESS)
    other = load(folder_of(tmp_path / "other", files | {"003.png": saved(noise(20, 24, seed=99))}), PREPROCESS)
    assert one.digest != other.digest and len(one.digest) == 64


def test_grey_networks_get_one_channel(tmp_path: Path) -> None:
    grey = Preprocess((16, 20), 1, (0.5,), (0.25,), 0.9, "bicubic", whole=True)
    images = load(folder_of(tmp_path, plain(3) | odd()), grey)
    assert images.pixels.shape == (3 + len(odd()), 1, *grey.stored_size)


def test_a_damaged_member_of_an_archive_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, data in plain(4).items():
            archive.writestr(name, data)
    whole = load(path, PREPROCESS)
    assert same(whole, load(folder_of(tmp_path / "folder", plain(4)), PREPROCESS))
    damaged = bytearray(path.read_bytes())
    damaged[damaged.index(plain(4)["002.png"]) + 500] ^= 255
    path.write_bytes(damaged)
    images = load(path, PREPROCESS)
    assert len(images.names) == 3 and [one.name for one in images.broken] == ["002.png"]
    assert "CRC" in images.broken[0].reason


def test_too_few_images_list_the_files_by_suffix(tmp_path: Path) -> None:
    folder_of(tmp_path, {"a.txt": b"", "b.txt": b"", "c.mp4": b"", "README": b""})
    with pytest.raises(ImagesError) as caught:
        load(tmp_path, PREPROCESS)
    message = str(caught.value)
    assert caught.value.exit_code == 5
    for part in (
        "no readable image",
        "4 files were checked",
        "2 .txt",
        "1 .mp4",
        "1 without a suffix",
        "jpg, jpeg",
        "webp",
    ):
        assert part in message
    folder_of(tmp_path, plain(1) | {f"broken{i}.jpg": b"x" for i in range(7)})
    with pytest.raises(ImagesError) as caught:
        load(tmp_path, PREPROCESS)
    message = str(caught.value)
    for part in ("only one readable image", "12 files", "7 .jpg", "  broken0.jpg: ", "  broken4.jpg: ", "and 2 more"):
        assert part in message
    assert "broken5" not in message


def test_an_empty_folder_is_no_images(tmp_path: Path) -> None:
    with pytest.raises(ImagesError, match="0 files were checked"):
        load(tmp_path, PREPROCESS)


def test_more_than_memory_holds_is_refused_with_its_size(tmp_path: Path) -> None:
    endless = Preprocess((10**7, 10**7), 3, (0.5,) * 3, (0.5,) * 3, 1.0, "nearest")
    with pytest.raises(MachineError, match=r"2 images of 10000000x10000000 need 600,000\.0 GB"):
        load(folder_of(tmp_path, plain(2)), endless)


def test_reading_warns_and_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    odd_exif = saved(noise(9, 9), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    images = load(folder_of(tmp_path, plain(2) | odd() | {"exif-broken.jpg": odd_exif}), PREPROCESS)
    assert not images.broken  # a warning would be an error in these tests, and the image broken
    assert capfd.readouterr() == ("", "")


def test_an_image_that_takes_too_long_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    image = saved(noise(20, 24))
    slow = (
        image[:33]
        + (struct.pack(">I", 3) + b"tEXta\0b" + struct.pack(">I", zlib.crc32(b"tEXta\0b"))) * 200_000
        + image[33:]
    )
    folder_of(tmp_path, plain(3) | {"slow.png": slow})
    images = load(tmp_path, PREPROCESS, limits=Limits(seconds=0.2))
    assert [one.name for one in images.broken] == ["slow.png"] and len(images.names) == 3
    assert images.broken[0].reason == "decoding it takes more than 0.2 s"
    assert len(load(tmp_path, PREPROCESS).names) == 4


@pytest.mark.parametrize(("part", "count"), [("imagenet/1shot", 1000), ("cifar10/1shot-draw0", 10)])
def test_real_folders_load_whole(part: str, count: int) -> None:
    images = load(real_data(part), PREPROCESS)
    assert len(images.names) == len(images.pixels) == count and not images.broken
