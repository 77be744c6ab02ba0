"""Images in a column of an .arrow file, or of a folder that `save_to_disk` of Hugging Face datasets wrote."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

from graftcli.images.sources.archive import archive_errors
from graftcli.images.sources.place import Place
from graftcli.images.sources.source import Files, Source, UnreadableSource
from graftcli.images.sources.tables import Rows, image_column, require_pyarrow

_MAGIC = b"ARROW1"  # of the file format; the stream format, which datasets writes, has none


def _files(place: Place, stack: ExitStack) -> Files | None:
    if not place.is_file() or not place.name.lower().endswith(ARROW.shards):
        return None
    require_pyarrow(place)
    with archive_errors(), place.open("rb") as file:
        reader = _opened(file)
        column = image_column(reader.schema)
        rows = _ArrowRows(place, column, [sum(batch.num_rows for batch in _batches(reader, column))])
    stack.callback(rows.release)
    return rows


class _ArrowRows(Rows):
    """Rows of an .arrow file, which is a single part, because a stream can only be read from its start."""

    def batches(self, file: BinaryIO, part: int) -> Iterator[Any]:
        """The record batches of the image column."""
        file.seek(0)
        with archive_errors():
            yield from _batches(_opened(file), self._column)


def _opened(file: BinaryIO) -> Any:
    """A reader of record batches, of a local file without copies: it is memory-mapped."""
    import pyarrow as pa

    source = pa.memory_map(file.name) if isinstance(getattr(file, "name", None), str) else pa.PythonFile(file, "r")
    is_file = file.read(len(_MAGIC)) == _MAGIC
    file.seek(0)
    return pa.ipc.open_file(source) if is_file else pa.ipc.open_stream(source)


def _batches(reader: Any, column: str) -> Iterator[Any]:
    if hasattr(reader, "get_batch"):
        batches = (reader.get_batch(number) for number in range(reader.num_record_batches))
        return (batch.select([column]) for batch in batches if batch.num_rows)
    return (batch.select([column]) for batch in reader if batch.num_rows)


def dataset_files(folder: Path) -> list[Path] | None:
    """The .arrow files of a folder that `save_to_disk` wrote; None for any other folder."""
    if (folder / "dataset_dict.json").is_file():
        splits = ", ".join(sorted(path.name for path in folder.iterdir() if path.is_dir()))
        raise UnreadableSource(f"it holds several splits: give one of its folders ({splits})")
    state = folder / "state.json"
    if not state.is_file():
        return None
    try:
        names = [str(file["filename"]) for file in json.loads(state.read_text(encoding="utf-8"))["_data_files"]]
    except (ValueError, KeyError, TypeError):
        return None
    return [folder / name for name in names if Path(name).name == name]


ARROW = Source(".arrow", _files, shards=(".arrow",))
