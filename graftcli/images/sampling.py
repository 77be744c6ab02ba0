"""A few images out of many: for one draw the same ones wherever they lie, and the first of more are those of fewer.

Class folders say which images are drawn, as a user would choose them; what is drawn does not say of which class it is.
"""

import hashlib
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from graftcli.errors import ImagesError, few
from graftcli.images.decoding import File, each
from graftcli.images.pixels import Preprocess, decode
from graftcli.images.sources import Entry, opened

_ANY = Preprocess(
    (32, 32), 3, (0.0,) * 3, (1.0,) * 3, 1.0, "bilinear"
)  # a size at which an image shows that it can be read
_NAMED = 5  # class folders or images in a message


@dataclass(frozen=True)
class DrawnImage:
    name: str  # of its bytes, which tells nothing of its class
    data: bytes


def drawn(source: Path, shots: int, draw: int) -> tuple[DrawnImage, ...]:
    """`shots` images of each class folder; where there are none, `shots` images in all. None of them twice."""
    found: dict[str, DrawnImage] = {}
    short: list[str] = []
    with opened(source) as whole:
        for folder, entries in _classes(source, whole.entries).items():
            before = len(found)
            with closing(_readable(entries, draw)) as readable:
                for one in readable:
                    if len(found) == before + shots:
                        break
                    found.setdefault(one.name, one)
            if len(found) < before + shots:
                short.append(f"`{folder}` has {len(found) - before}" if folder else f"it has {len(found) - before}")
    if short:
        more = f" and {len(short) - _NAMED} more folders" if len(short) > _NAMED else ""
        raise ImagesError(
            f"`{source}` has too few images that can be read and differ for {shots} shots:"
            f" {', '.join(short[:_NAMED])}{more}.",
            "Ask for fewer --shots, or add images.",
        )
    return tuple(found.values())


def _classes(source: Path, entries: Sequence[Entry]) -> dict[str, list[Entry]]:
    """The images of each class folder, in the order of their names; all of them under "" where there is no such folder.

    Folders around everything are stepped over.
    """
    names = {entry.name: PurePosixPath(entry.name).parts for entry in entries}
    while all(len(parts) > 1 for parts in names.values()) and len({parts[0] for parts in names.values()}) == 1:
        names = {name: parts[1:] for name, parts in names.items()}
    beside = [name for name, parts in names.items() if len(parts) == 1]
    if len(beside) == len(names):
        return {"": list(entries)}
    if beside:
        raise ImagesError(
            f"{len(beside)} of {len(names)} images under `{source}` lie beside the class folders:"
            f" {few(beside, _NAMED)}.",
            "Move them into the folders of their classes, or away.",
        )
    found: dict[str, list[Entry]] = {}
    for entry in sorted(entries, key=lambda one: one.name):
        found.setdefault(names[entry.name][0], []).append(entry)
    return dict(sorted(found.items()))


def _readable(entries: Sequence[Entry], draw: int) -> Generator[DrawnImage]:
    """The images that can be read, shuffled by their names and the number of the draw."""
    shuffled = sorted(entries, key=lambda one: hashlib.sha256(f"{draw}/{one.name}".encode()).digest())
    # by one thread: with more of them, more images than are drawn would be read ahead
    return (one for one in each(shuffled, _drawn, jobs=1) if isinstance(one, DrawnImage))


def _drawn(file: File) -> DrawnImage:
    decode(file.data, _ANY, file.allowance)
    suffix = PurePosixPath(file.name).suffix.lower()
    return DrawnImage(f"{hashlib.sha256(file.data).hexdigest()[:24]}{suffix}", file.data)
