"""Preprocessed pixels equal those of timm's and torchvision's evaluation."""

import itertools
import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from timm.data import create_transform
from torchvision.transforms import InterpolationMode
from torchvision.transforms._presets import ImageClassification

from graftcli.errors import UsageError
from graftcli.images.limits import Allowance, Limits, MemoryBudget
from graftcli.images.pixels import Preprocess, center_crop, decode, normalise, open_image
from graftcli.images.refusal import Refused
from tests.image_files import noise, ramp16, real_data, saved

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def preprocess(
    size: tuple[int, int] = (24, 24),
    crop_pct: float = 0.875,
    interpolation: str = "bicubic",
    channels: int = 3,
    whole: bool = False,
    squash: bool = False,
) -> Preprocess:
    return Preprocess(size, channels, MEAN[:channels], STD[:channels], crop_pct, interpolation, whole, squash)


def as_is(data: bytes, channels: int = 3) -> NDArray[np.uint8]:
    """The pixels of an image that need not be resized, channels last."""
    with Image.open(BytesIO(data)) as image:
        width, height = ImageOps.exif_transpose(image).size
    return decode(data, preprocess((height, width), 1.0, "nearest", channels)).transpose(1, 2, 0)


def agrees_with_timm(data: bytes, by: Preprocess) -> None:
    def timm(normalize: bool) -> torch.Tensor:
        transform = create_transform(
            (by.channels, *by.size),
            interpolation=by.interpolation,
            mean=by.mean,
            std=by.std,
            crop_pct=by.crop_pct,
            crop_mode="squash" if by.squash else "center",
            normalize=normalize,
        )
        with Image.open(BytesIO(data)) as image:
            given = transform(image.convert("L" if by.channels == 1 else "RGB"))
        assert isinstance(given, torch.Tensor)
        return given

    pixels = torch.from_numpy(decode(data, by).copy())
    assert torch.equal(pixels, timm(normalize=False))
    torch.testing.assert_close(normalise(pixels, by), timm(normalize=True), rtol=0, atol=1e-6)


FITS = [
    preprocess((224, 224), 0.875, "bilinear"),
    preprocess((224, 224), 0.9, "bicubic"),
    preprocess((227, 227), 0.965, "lanczos"),
    preprocess((64, 64), 1.0, "hamming"),
    preprocess((33, 33), 0.7, "box"),
    preprocess((32, 32), 0.875, "nearest"),
    preprocess((160, 224), 0.95, "bicubic"),
    preprocess((224, 160), 0.875, "bilinear"),
    preprocess((96, 96), 1.1, "bicubic"),
    preprocess((96, 64), 1.1, "bicubic"),
    preprocess((48, 48), 0.875, "bicubic", channels=1),
    preprocess((64, 64), 1.0, "bicubic", squash=True),
    preprocess((48, 64), 0.875, "bilinear", squash=True),
]


@pytest.mark.parametrize("by", FITS, ids=lambda by: f"{by.size[0]}x{by.size[1]}-{by.crop_pct}-{by.interpolation}")
@pytest.mark.parametrize("part", ["imagenet/1shot", "cifar10/1shot-draw0"])
def test_real_images_give_the_pixels_of_timm(part: str, by: Preprocess) -> None:
    files = sorted(real_data(part).iterdir())[:10]
    assert files
    for file in files:
        agrees_with_timm(file.read_bytes(), by)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"])
@pytest.mark.parametrize("size", [(24, 24), (20, 31)], ids=str)
def test_any_shape_gives_the_pixels_of_timm(size: tuple[int, int], interpolation: str) -> None:
    shapes = [(1, 1), (1, 9), (7, 5), (24, 24), (27, 27), (28, 27), (61, 40), (40, 61), (200, 31)]
    for (height, width), crop_pct in itertools.product(shapes, (0.5, 0.875, 0.95, 1.0, 1.1, 1.3)):
        agrees_with_timm(saved(noise(height, width)), preprocess(size, crop_pct, interpolation))


def test_pixels_are_those_of_torchvisions_weights() -> None:
    by = preprocess((56, 56), 56 / 58, "bilinear")
    preset = ImageClassification(crop_size=56, resize_size=58, interpolation=InterpolationMode.BILINEAR)
    for shape in [(80, 61), (61, 80), (58, 58), (300, 200)]:
        image = noise(*shape)
        pixels = torch.from_numpy(decode(saved(image), by).copy())
        torch.testing.assert_close(normalise(pixels, by), preset(image), rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [(8, 8), (9, 9), (8, 11)], ids=str)
def test_the_centre_of_the_whole_is_the_crop(size: tuple[int, int]) -> None:
    sizes = set()
    for height, width, crop_pct in itertools.product(range(9, 17), range(9, 17), (0.5, 0.65, 0.8, 0.9, 1.0, 1.4)):
        data = saved(noise(height, width))
        whole = preprocess(size, crop_pct, whole=True)
        pixels = torch.from_numpy(decode(data, whole).copy())
        assert tuple(pixels.shape[1:]) == whole.stored_size
        sizes.add(whole.stored_size)
        crop = torch.from_numpy(decode(data, preprocess(size, crop_pct)).copy())
        assert torch.equal(center_crop(pixels, whole), crop)
        assert torch.equal(center_crop(crop, whole), crop)
    assert len(sizes) > 3


def test_the_whole_of_a_square_image_is_all_of_it() -> None:
    whole = preprocess((28, 28), 0.875, "nearest", whole=True)
    image = noise(32, 32)
    assert np.array_equal(decode(saved(image), whole).transpose(1, 2, 0), np.asarray(image))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_an_image_stands_as_its_exif_says(kind: str, orientation: int) -> None:
    turns = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: np.rot90(a),
    }
    image = noise(10, 16)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    plain, turned = as_is(saved(image, kind, **options)), as_is(saved(image, kind, exif=exif, **options))
    assert np.array_equal(turned, turns[orientation](plain))


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow says what is damaged
def test_damaged_exif_spoils_no_image() -> None:
    image = noise(10, 16)
    for exif in (b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff"):
        assert as_is(saved(image, "JPEG", exif=exif)).shape == (10, 16, 3)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bits_become_8_without_clipping(kind: str) -> None:
    deep = ramp16()
    expected = np.rint(np.asarray(deep) / 257).astype(np.uint8)
    found = as_is(saved(deep, kind))
    assert np.array_equal(found, np.repeat(expected[..., None], 3, axis=2))
    assert (found.min(), found.max()) == (0, 255) and len(np.unique(found)) > 200
    assert np.array_equal(as_is(saved(deep, kind), channels=1)[..., 0], expected)


def test_dark_16_bits_stay_dark() -> None:
    dark = Image.fromarray(np.full((8, 8), 200, dtype=np.uint16))
    assert as_is(saved(dark)).max() == 1


def png(depth: int, colour: int, rows: NDArray[np.uint16], *chunks: tuple[bytes, bytes]) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", rows.shape[1], rows.shape[0], depth, colour, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row.astype(">u2").tobytes() for row in rows))
    parts = [(b"IHDR", header), *chunks, (b"IDAT", data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def test_16_bit_colour_and_alpha_are_within_one_level() -> None:
    deep = np.linspace(0, 65535, 8 * 8 * 3).reshape(8, 8, 3).astype(np.uint16)
    found = as_is(png(16, 2, deep)).astype(int)
    assert np.abs(found - deep / 257).max() <= 1
    clear = np.concatenate([deep, np.full((8, 8, 1), 0, np.uint16)], axis=2)
    assert (as_is(png(16, 6, clear)) == 255).all()
    solid = np.concatenate([deep, np.full((8, 8, 1), 65535, np.uint16)], axis=2)
    assert np.array_equal(as_is(png(16, 6, solid)), found)
    assert as_is(png(16, 0, deep[..., 0], (b"tRNS", b"\x12\x34"))).shape == (8, 8, 3)
    assert as_is(png(16, 2, deep, (b"tRNS", b"\x12\x34" * 3))).shape == (8, 8, 3)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0.0, 0.25, 1.0]]), [0, 64, 255]),
        (np.array([[0.0, 100.0, 255.0]]), [0, 100, 255]),
        (np.array([[0.0, 257.0, 65535.0]]), [0, 1, 255]),
        (np.array([[-1.0, 0.0, 1.0]]), [0, 128, 255]),
        (np.array([[np.nan, 1e9, np.inf, 3e9]]), [0, 0, 255, 255]),
        (np.array([[np.nan, np.nan]]), [0, 0]),
        (np.array([[-5.0, -5.0]]), [0, 0]),
        (np.array([[-3e38, 3e38]]), [0, 255]),
    ],
    ids=["unit", "byte", "short", "signed", "not-finite", "no-number", "flat", "extreme"],
)
def test_floats_fill_the_range_that_holds_them(values: NDArray[np.float64], expected: list[int]) -> None:
    found = as_is(saved(Image.fromarray(values.astype(np.float32)), "TIFF"))
    assert found[0, :, 0].tolist() == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [([0, 7, 255], [0, 7, 255]), ([0, 257, 65535], [0, 1, 255]), ([-100, 0, 100], [0, 128, 255])],
)
def test_integers_fill_the_range_that_holds_them(values: list[int], expected: list[int]) -> None:
    found = as_is(saved(Image.fromarray(np.array([values], dtype=np.int32)), "TIFF"))
    assert found[0, :, 0].tolist() == expected


def test_transparency_shows_white() -> None:
    red = Image.new("RGBA", (4, 1), (255, 0, 0, 255))
    red.putalpha(Image.fromarray(np.array([[255, 0, 128, 255]], dtype=np.uint8)))
    assert as_is(saved(red))[0].tolist() == [[255, 0, 0], [255, 255, 255], [255, 127, 127], [255, 0, 0]]
    grey = Image.fromarray(np.array([[[10, 255], [10, 0]]], dtype=np.uint8), "LA")
    assert as_is(saved(grey))[0].tolist() == [[10] * 3, [255] * 3]
    assert as_is(saved(grey), channels=1)[0].tolist() == [[10], [255]]


def test_a_palettes_transparent_colour_shows_white() -> None:
    plain = Image.fromarray(np.array([[0, 1, 2]], dtype=np.uint8), "P")
    plain.putpalette([9, 8, 7, 60, 50, 40, 30, 20, 10])
    assert as_is(saved(plain))[0].tolist() == [[9, 8, 7], [60, 50, 40], [30, 20, 10]]
    for data in (
        saved(plain, transparency=1),
        saved(plain, "GIF", transparency=1),
        saved(plain, transparency=b"\xff\0"),
    ):
        assert as_is(data)[0].tolist() == [[9, 8, 7], [255, 255, 255], [30, 20, 10]]
    keyed = saved(Image.fromarray(np.array([[5, 6]], dtype=np.uint8)), transparency=5)
    assert as_is(keyed)[0, :, 0].tolist() == [255, 6]


def test_one_bit_is_black_and_white() -> None:
    assert as_is(saved(Image.fromarray(np.array([[True, False]]))))[0].tolist() == [[255] * 3, [0] * 3]


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_keeps_its_colours(kind: str) -> None:
    colours = Image.new("RGB", (64, 32), (200, 30, 60))
    found = as_is(saved(colours.convert("CMYK"), kind))
    assert np.abs(found.astype(int) - np.asarray(colours)).max() <= 3


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_is_taken(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = saved(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert np.unique(as_is(data).reshape(-1, 3), axis=0).tolist() == [[255, 0, 0]]


def test_a_bomb_is_refused_from_its_header() -> None:
    bomb = png(8, 2, np.zeros((2, 2), np.uint16))
    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    bomb = bomb[:16] + header + struct.pack(">I", zlib.crc32(b"IHDR" + header)) + bomb[33:]
    with pytest.raises((Refused, Image.DecompressionBombError), match=r"2500000000 pixels|50000x50000"):
        decode(bomb, preprocess())


def test_a_thread_that_would_become_a_bomb_is_refused() -> None:
    with pytest.raises(Refused, match=r"20000x1 pixels.*4480000x224"):
        decode(saved(Image.new("L", (20_000, 1))), preprocess((224, 224), 1.0))


def within(budget: int) -> Allowance:
    return Allowance(Limits(MemoryBudget(budget)))


def test_an_image_beyond_the_memory_budget_is_refused_with_both_sizes() -> None:
    data = saved(Image.new("RGB", (2000, 2000)))
    assert np.array_equal(decode(data, preprocess(), within(2**25)), decode(data, preprocess()))
    with pytest.raises(Refused, match=r"needs 1[5-7] MiB of memory; the limit is 8 MiB"):
        decode(data, preprocess(), within(2**23))


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_a_jpeg_beyond_the_memory_budget_is_decoded_at_a_smaller_scale(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    gradient = Image.linear_gradient("L").resize((2000, 1200)).convert("RGB")
    data = saved(gradient, "JPEG", quality=95, exif=exif)
    small, whole = decode(data, preprocess(), within(2**21)), decode(data, preprocess())
    assert small.shape == whole.shape and np.abs(small.astype(int) - whole).max() < 12
    with open_image(data, 3, preprocess(), within(2**21)) as picture:
        shown = (1200, 2000) if orientation == 6 else (2000, 1200)
        assert (picture.stored.width, picture.stored.height) == shown
        assert picture.flat.width < shown[0] and min(picture.flat.size) > 27
    with pytest.raises(Refused, match="of memory"):
        decode(data, preprocess((800, 800)), within(2**21))


def test_a_progressive_jpeg_counts_what_its_decoder_holds() -> None:
    image = Image.new("RGB", (2000, 2000))
    plain = saved(image, "JPEG", subsampling=0)
    progressive = saved(image, "JPEG", subsampling=0, progressive=True)
    with open_image(plain, 3, None, within(20 * 2**20)) as picture:
        assert picture.flat.size == (2000, 2000)
    with open_image(progressive, 3, None, within(30 * 2**20)) as picture:
        assert picture.flat.size == (250, 250)


def test_tiles_give_the_pixels_of_the_whole() -> None:
    """Larger than a tile, so that each conversion is made in several."""
    rng = np.random.default_rng(0)
    clear = Image.fromarray(rng.integers(0, 256, (900, 1500, 4), dtype=np.uint8))
    white = Image.new("RGBA", clear.size, "white")
    white.alpha_composite(clear)
    by = preprocess((900, 1500), 1.0, "nearest")
    assert np.array_equal(decode(saved(clear), by).transpose(1, 2, 0), np.asarray(white)[..., :3])
    deep = rng.integers(0, 65536, (900, 1500)).astype(np.uint16)
    assert np.array_equal(decode(saved(Image.fromarray(deep)), by)[0], np.rint(deep / 257).astype(np.uint8))
    real = rng.uniform(-3, 8, (900, 1500)).astype(np.float32)
    low, high = float(real.min()), float(real.max())
    expected = ((real.astype(np.float64) - low) * 255 / (high - low)).round().astype(np.uint8)
    assert np.array_equal(decode(saved(Image.fromarray(real), "TIFF"), by)[0], expected)


def test_more_scans_than_any_encoder_writes_are_refused() -> None:
    data = saved(noise(16, 16), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    assert decode(data[:-2] + data[last:-2] * 400 + data[-2:], preprocess()).shape == (3, 24, 24)
    with pytest.raises(Refused, match="more than 500 scans"):
        decode(data[:-2] + data[last:-2] * 600 + data[-2:], preprocess())
    large = saved(Image.new("L", (6000, 6000)), "JPEG", progressive=True)
    last = large.rindex(b"\xff\xda")
    with pytest.raises(Refused, match=r"it has \d+ scans of 6000x6000 pixels"):
        decode(large[:-2] + large[last:-2] * 300 + large[-2:], preprocess())
    video = data + b"\xff\xda" * 1000  # as phones append to a photo
    assert np.array_equal(decode(video, preprocess()), decode(data, preprocess()))
    with pytest.raises(Refused, match="more than 65,536 segments"):
        decode(data[:2] + b"\xff\xfe\0\2" * 70_000 + data[2:], preprocess())


def test_other_formats_are_not_opened(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="cannot identify"):
        decode(saved(noise(4, 4), "PPM"), preprocess())


def test_all_faults_of_a_fit_are_named_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        Preprocess((0, 8), 3, (0.5,), (0.0,), -1.0, "cubic")
    message = str(caught.value)
    for part in ("0x8", "1 means and 1 stds for 3", "(0.0,)", "crop_pct is -1.0", "`cubic`", "bicubic, lanczos, box"):
        assert part in message
    with pytest.raises(UsageError, match="takes 4 channels"):
        Preprocess((8, 8), 4, (0.5,) * 4, (0.5,) * 4, 1.0, "bicubic")
    with pytest.raises(UsageError, match="above 0"):
        preprocess(crop_pct=float("nan"))


def test_normalising_leaves_the_pixels_alone() -> None:
    pixels = torch.randint(0, 256, (3, 3, 5, 5), dtype=torch.uint8)
    for given in (pixels, pixels.to(torch.float32)):
        before = given.clone()
        found = normalise(given, preprocess())
        assert found.dtype == torch.float32 and torch.equal(given, before)
    expected = (pixels.double() / 255 - torch.tensor(MEAN).view(-1, 1, 1)) / torch.tensor(STD).view(-1, 1, 1)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-6)
