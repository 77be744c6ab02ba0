"""Hostile archives, made by code: what swells, lies, loops, ends early or leads elsewhere."""

from collections.abc import Callable
from pathlib import Path

from tests.hostile.tars import COMPRESSIONS, STREAMS, TARS, write
from tests.hostile.zips import ZIPS

Make = Callable[[Path], Path]


def _tar(kind: str, compression: str) -> Make:
    def make(folder: Path) -> Path:
        path = folder / f"images.tar{'.' if compression else ''}{compression}"
        write(path, compression, TARS[kind]())
        return path

    return make


def _file(suffix: str, content: Callable[[], bytes]) -> Make:
    def make(folder: Path) -> Path:
        path = folder / f"images.{suffix}"
        path.write_bytes(content())
        return path

    return make


ARCHIVES: dict[str, Make] = {
    **{f"tar {kind or 'plain'}: {name}": _tar(name, kind) for name in TARS for kind in COMPRESSIONS},
    **{f"stream: {name}": _file(suffix, content) for name, (suffix, content) in STREAMS.items()},
    **{f"zip: {name}": _file("zip", content) for name, content in ZIPS.items()},
}
