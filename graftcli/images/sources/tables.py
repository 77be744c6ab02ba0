"""Images in the rows of tables (.parquet and .arrow), which are read with the optional package pyarrow."""

from abc import abstractmethod
from bisect import bisect_right
from collections.abc import Iterator
from functools import partial
from itertools import accumulate
from typing import Any, BinaryIO

from graftcli.errors import ImagesError
from graftcli.images.refusal import Refused, check_file_size
from graftcli.images.sources.place import Place, stamp
from graftcli.images.sources.source import Entry, Files, UnreadableSource

BATCH_ROWS = 64
_NAMES = (
    "image",
    "img",
    "image_bytes",
    "bytes",
    "data",
)  # names of a binary column with images, if there are several binary columns


def require_pyarrow(place: Place) -> None:
    """Raise ImagesError unless pyarrow is installed."""
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        found = f"`{place}` is a table, but the package pyarrow, which reads tables, is not installed."
        raise ImagesError(found, "python3 -m pip install pyarrow") from error


class Rows(Files):
    """The rows of a table, read in batches: reading in order decodes each batch once."""

    is_images = True

    def __init__(self, place: Place, column: str, counts: list[int]) -> None:
        self._place, self._column = place, column
        self._starts = [0, *accumulate(counts)]  # the first row of each part of the file that can be read separately
        self._batches: Iterator[Any] = iter(())
        self._batch: Any = None
        self._first = self._end = 0  # rows of the current batch
        self._file: BinaryIO | None = None

    def __len__(self) -> int:
        return self._starts[-1]

    def entry(self, index: int) -> Entry:
        """The file at an index from 0; its name is its row."""
        return Entry(f"{index:0{len(str(len(self)))}}", partial(self._read, index))

    def state(self) -> Iterator[str]:
        """The state of the file, and the column."""
        yield f"{stamp(self._place)} {self._column}"

    def release(self) -> None:
        """Close the file; the next read opens it again."""
        if self._file is not None:
            self._file.close()
        self._file, self._batch, self._batches, self._first, self._end = None, None, iter(()), 0, 0

    @abstractmethod
    def batches(self, file: BinaryIO, part: int) -> Iterator[Any]:
        """The record batches of the image column from a part of the file on."""

    def _read(self, index: int) -> bytes:
        while not self._first <= index < self._end:
            self._advance(index)
        value = self._batch[index - self._first].as_py()
        if isinstance(value, dict):
            if value.get("bytes") is None and value.get("path"):
                raise Refused(f"its row holds the path `{value['path']}` and no bytes: save the images themselves")
            value = value.get("bytes")
        if value is None:
            raise Refused("its row holds no image")
        check_file_size(len(value))
        return bytes(value)

    def _advance(self, index: int) -> None:
        """Read on to the batch of the row if it is ahead in the same part, else start at the beginning of its part."""
        part = bisect_right(self._starts, index) - 1
        if self._file is None:
            self._file = self._place.open("rb")
        if not (self._starts[part] <= self._first and self._end <= index and self._batch is not None):
            self._batches, self._first, self._end = self.batches(self._file, part), 0, self._starts[part]
        self._batch = next(self._batches).column(0)
        self._first, self._end = self._end, self._end + len(self._batch)


def image_column(schema: Any) -> str:
    """The path of the column with images: a struct with `bytes`, as Hugging Face writes them, or a binary column."""
    import pyarrow as pa

    structs = [
        field.name
        for field in schema
        if pa.types.is_struct(field.type) and any(part.name == "bytes" for part in field.type)
    ]
    binary = [field.name for field in schema if pa.types.is_binary(field.type) or pa.types.is_large_binary(field.type)]
    named = [name for name in _NAMES if name in binary]
    if len(found := structs[:1] or named[:1] or binary) != 1:
        columns = ", ".join(f"{field.name} ({field.type})" for field in schema)
        raise UnreadableSource(f"no column holds images, or several do: its columns are {columns[:500]}")
    return str(found[0])
