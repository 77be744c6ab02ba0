"""Every file of a source through one function, by several threads, in order, with no more than a few in memory.

A file that cannot be read or decoded is named with the reason; it never ends the work on the others.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from PIL import Image, UnidentifiedImageError

from graftcli.environment.machine import usable_cores
from graftcli.errors import MachineError
from graftcli.images.pixels import FORMATS
from graftcli.images.sources import FOREIGN, Entry, Refused

T = TypeVar("T")

_MOST_WORKERS = 16  # more of them wait for the one thread that reads


@dataclass(frozen=True)
class Broken:
    name: str
    reason: str


@dataclass(frozen=True)
class File:
    row: int  # its place among the entries
    name: str
    data: bytes


def each(entries: Sequence[Entry], work: Callable[[File], T], jobs: int | None = None) -> Iterator[T | Broken]:
    """What `work` makes of each entry's bytes, or why it could not, in the order of the entries."""
    workers = min(_MOST_WORKERS, usable_cores()) if jobs is None else max(1, jobs)
    Image.init()  # here, because it is not made for several threads at once
    with ThreadPoolExecutor(workers) as pool:
        files = (_fetched(row, entry) for row, entry in enumerate(entries))
        yield from _in_order(pool, partial(_settled, work), files, ahead=2 * workers)


def _in_order(
    pool: ThreadPoolExecutor, work: Callable[[File | Broken], T], files: Iterable[File | Broken], ahead: int
) -> Iterator[T]:
    """map(work, files), with no more than `ahead` of the files in memory."""
    waiting: deque[Future[T]] = deque()
    for file in files:
        waiting.append(pool.submit(work, file))
        if len(waiting) >= ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _fetched(row: int, entry: Entry) -> File | Broken:
    if entry.name.lower().endswith(FOREIGN):
        return Broken(entry.name, "this kind of file is not read: convert it to PNG or JPEG")
    try:
        return File(row, entry.name, entry.read())
    except MemoryError as error:
        raise _no_memory(entry.name) from error
    except Refused as refusal:
        return Broken(entry.name, str(refusal))
    except Exception as error:  # a damaged archive raises whatever its damage leads to
        return Broken(entry.name, f"its bytes cannot be read ({error})")


def _settled(work: Callable[[File], T], file: File | Broken) -> T | Broken:
    if isinstance(file, Broken):
        return file
    try:
        return work(file)
    except MemoryError as error:
        raise _no_memory(file.name) from error
    except Exception as error:  # damaged bytes lead a decoder to any exception there is
        return Broken(file.name, _reason(error, file.data))


def _no_memory(name: str) -> MachineError:
    return MachineError(f"memory ran out while reading `{name}`.", "Free memory, or read with fewer --jobs.")


def _reason(error: Exception, data: bytes) -> str:
    if not data:
        return "the file is empty"
    if isinstance(error, UnidentifiedImageError):
        return f"it is damaged or none of {', '.join(FORMATS)}; it begins with {data[:12]!r}"
    if isinstance(error, Refused | Image.DecompressionBombError):
        return str(error)
    if "truncated" in str(error).lower():
        return f"it ends too early ({error})"
    return f"its data is damaged ({type(error).__name__}: {error})"
