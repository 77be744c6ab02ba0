"""Draw few-shot subsets of images.

A draw depends only on file names and on its number, and a draw with more shots contains that with fewer. Class folders
determine which images are drawn; the drawn images do not reveal their class.
"""

import hashlib
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from graftcli.errors import ImagesError, few
from graftcli.images.decoding import File, process_files
from graftcli.images.file_formats import suffix_of
from graftcli.images.pixels import decode
from graftcli.images.preprocess import Preprocess
from graftcli.images.sources import Entry, open_source

# any preprocessing will do: images are decoded only to find corrupt files
_PREPROCESS = Preprocess((32, 32), 3, (0.0,) * 3, (1.0,) * 3, 1.0, "bilinear")
_LISTED = 5  # class folders or images in a message


@dataclass(frozen=True)
class DrawnImage:
    """The file of an image that was drawn."""

    name: str  # a hash of its bytes, which does not reveal its class
    data: bytes


def draw_images(source: Path, shots: int, draw: int) -> tuple[DrawnImage, ...]:
    """Draw `shots` distinct images per class folder, or `shots` in all if there are no class folders."""
    images: dict[str, DrawnImage] = {}
    short: list[str] = []
    with open_source(source) as opened:
        for folder, entries in _classes(source, opened.entries).items():
            before = len(images)
            with closing(_readable(entries, draw)) as readable:
                for image in readable:
                    if len(images) == before + shots:
                        break
                    images.setdefault(image.name, image)
            if len(images) < before + shots:
                short.append(f"`{folder}` has {len(images) - before}" if folder else f"it has {len(images) - before}")
    if short:
        more = f" and {len(short) - _LISTED} more folders" if len(short) > _LISTED else ""
        raise ImagesError(
            f"`{source}` has too few distinct, readable images for {shots} shots: {', '.join(short[:_LISTED])}{more}.",
            "Lower --shots, or add images.",
        )
    return tuple(images.values())


def _classes(source: Path, entries: Sequence[Entry]) -> dict[str, list[Entry]]:
    """The images of each class folder, sorted by name; all under "" if there are no class folders.

    A single folder that contains everything is not a class folder.
    """
    names = {entry.name: PurePosixPath(entry.name).parts for entry in entries}
    while all(len(parts) > 1 for parts in names.values()) and len({parts[0] for parts in names.values()}) == 1:
        names = {name: parts[1:] for name, parts in names.items()}
    outside = [name for name, parts in names.items() if len(parts) == 1]
    if len(outside) == len(names):
        return {"": list(entries)}
    if outside:
        raise ImagesError(
            f"{len(outside)} of {len(names)} images under `{source}` are outside the class folders:"
            f" {few(outside, _LISTED)}.",
            "Move them into their class folders, or remove them.",
        )
    classes: dict[str, list[Entry]] = {}
    for entry in sorted(entries, key=lambda entry: entry.name):
        classes.setdefault(names[entry.name][0], []).append(entry)
    return dict(sorted(classes.items()))


def _readable(entries: Sequence[Entry], draw: int) -> Generator[DrawnImage]:
    """The readable images, shuffled by their names and the number of the draw."""
    shuffled = sorted(entries, key=lambda entry: hashlib.sha256(f"{draw}/{entry.name}".encode()).digest())
    # in one thread, because more threads would read more images ahead than are drawn
    return (image for image in process_files(shuffled, _check, jobs=1) if isinstance(image, DrawnImage))


def _check(file: File) -> DrawnImage:
    decode(file.data, _PREPROCESS, file.allowance)
    suffix = PurePosixPath(file.name).suffix.lower() or suffix_of(file.data)
    return DrawnImage(f"{hashlib.sha256(file.data).hexdigest()[:24]}{suffix}", file.data)
