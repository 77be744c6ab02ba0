"""Shared by all archives: error messages, and the detection of decompression bombs.

Nothing is written to disk, so member names that are absolute or contain ".." are harmless.
"""

import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

from graftcli.errors import GraftError
from graftcli.images.inflating import Implausible
from graftcli.images.sources.source import UnreadableSource

UNPACK = "unpack it first, and give the folder"
_MAX_RATIO, _RATIO_FROM = 100, 2**29  # largest compression ratio, checked above this many decompressed bytes


@contextmanager
def archive_errors() -> Iterator[None]:
    """Turn every error of an archive reader into UnreadableSource."""
    try:
        yield
    except (GraftError, UnreadableSource):
        raise
    except Implausible as error:
        raise UnreadableSource(f"it has {error}, which no image archive has") from error
    except RecursionError as error:
        raise UnreadableSource("its headers are nested without end") from error
    except MemoryError as error:
        raise UnreadableSource(f"listing its members ran out of memory: {UNPACK}") from error
    except UnicodeDecodeError as error:
        raise UnreadableSource("a member name is marked as UTF-8 but is not valid UTF-8") from error
    except (OSError, EOFError, tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError) as error:
        raise UnreadableSource(str(error) or type(error).__name__) from error
    except Exception as error:  # on damaged bytes, archive readers can raise anything
        raise UnreadableSource(f"it is damaged ({type(error).__name__}: {error})") from error


def check_ratio(expanded: int, size: int) -> None:
    """Refuse an archive of `size` bytes that expands like a decompression bomb."""
    if expanded > _RATIO_FROM and expanded > _MAX_RATIO * size:
        message = f"its {size:,} bytes expand to more than {expanded / 2**20:,.0f} MiB"
        raise UnreadableSource(f"{message}, like a decompression bomb: if it is none, {UNPACK}")
