"""A list of images of another source, as `graftcli images select --out NAME.list` writes it: JSON."""

import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from graftcli.images.sources.place import Place, is_url
from graftcli.images.sources.source import Chosen, Files, Source, UnreadableSource

_MAX_BYTES = 2**30

Open = Callable[[str, ExitStack], Files]


def list_source(open_source: Open) -> Source:
    """The source for lists; `open_source` opens the source that a list refers to."""

    def files(place: Place, stack: ExitStack) -> Files | None:
        if not isinstance(place, Path) or not place.is_file() or place.suffix.lower() != ".list":
            return None
        source, names = _read(place)
        if source.lower().endswith(".list"):
            raise UnreadableSource("it lists images of another list")
        if not is_url(source):
            source = str(place.parent / source)
        return _named(open_source(source, stack), names, source)

    return Source(".list", files)


def list_json(source: str, names: Sequence[str]) -> dict[str, object]:
    """The content of a list."""
    return {"images of": source, "names": list(names)}


def _read(place: Path) -> tuple[str, list[str]]:
    if place.stat().st_size > _MAX_BYTES:
        raise UnreadableSource("it is too large for a list")
    document = json.loads(place.read_text(encoding="utf-8"))
    try:
        source, names = document["images of"], document["names"]
    except (KeyError, TypeError) as error:
        raise UnreadableSource("it was not written by `graftcli images select`") from error
    if not isinstance(source, str) or not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UnreadableSource("it was not written by `graftcli images select`")
    return source, names


def _named(files: Files, names: Sequence[str], source: str) -> Files:
    wanted = dict.fromkeys(names, -1)
    for index, entry in enumerate(files):
        if wanted.get(entry.name) == -1:
            wanted[entry.name] = index
    if missing := [name for name, index in wanted.items() if index < 0]:
        raise UnreadableSource(
            f"{len(missing)} of its {len(wanted)} images are not in `{source}`, such as {missing[0]}"
        )
    return Chosen(files, list(wanted.values()))
