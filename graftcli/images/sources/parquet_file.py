"""Images in a column of a .parquet, which is read row group by row group."""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, BinaryIO

from graftcli.images.sources.archive import archive_errors
from graftcli.images.sources.place import Place
from graftcli.images.sources.source import Files, Source
from graftcli.images.sources.tables import BATCH_ROWS, Rows, image_column, require_pyarrow

_MAGIC = b"PAR1"
_BUFFER = 2**20  # bytes that are read at once


def _files(place: Place, stack: ExitStack) -> Files | None:
    if not place.is_file() or not place.name.lower().endswith(PARQUET.shards):
        return None
    require_pyarrow(place)
    with archive_errors(), place.open("rb") as file:
        table = _opened(file)
        groups = [table.metadata.row_group(number).num_rows for number in range(table.metadata.num_row_groups)]
        rows = _ParquetRows(place, image_column(table.schema_arrow), groups)
    stack.callback(rows.release)
    return rows


class _ParquetRows(Rows):
    """Rows of a .parquet; a part is a row group."""

    def batches(self, file: BinaryIO, part: int) -> Iterator[Any]:
        """The record batches of the image column from a row group on."""
        file.seek(0)
        groups = list(range(part, len(self._starts) - 1))
        with archive_errors():
            yield from _opened(file).iter_batches(BATCH_ROWS, groups, columns=[self._column], use_threads=False)


def _opened(file: BinaryIO) -> Any:
    from pyarrow import parquet

    return parquet.ParquetFile(file, buffer_size=_BUFFER, pre_buffer=False)


PARQUET = Source(".parquet", _files, shards=(".parquet",))
