"""Apply a function to every file of a source, in threads and in order, with few files in memory.

A file that cannot be read or decoded, or that exceeds its memory or time, is reported as `Broken` with the reason; the
others are not affected.
"""

from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Generic, TypeVar

from PIL import Image, UnidentifiedImageError

from graftcli.environment.machine import usable_cores
from graftcli.images.file_formats import FORMATS, UNSUPPORTED
from graftcli.images.limits import DEFAULT_LIMITS, Allowance, Limits
from graftcli.images.refusal import Refused
from graftcli.images.sources.source import Entry, printable
from graftcli.images.workers import Workers, WorkerTask

T = TypeVar("T")
R = TypeVar("R")

_MAX_WORKERS = 16  # more threads would wait for the only one that reads
_READ_AHEAD = 128 * 2**20  # bytes of files that are read ahead
_TICK = 0.5  # seconds between checks for threads that hang
_NO_MEMORY = "reading it ran out of memory, even with no other image in memory"


@dataclass(frozen=True)
class Broken:
    """An image that cannot be read, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class File:
    """The bytes of an image file, and what decoding it may take."""

    row: int  # index among the entries
    name: str
    data: bytes
    allowance: Allowance


@dataclass(frozen=True)
class _Pending(Generic[R]):
    task: WorkerTask[R]
    file: File | Broken
    size: int


def process_files(
    entries: Sequence[Entry], work: Callable[[File], T], jobs: int | None = None, limits: Limits = DEFAULT_LIMITS
) -> Generator[T | Broken, None, None]:
    """Iterate over `work(file)`, or why it failed, for each entry in order.

    `work` must have no side effects: it may still run after its file timed out and was reported as broken.
    """
    count = min(_MAX_WORKERS, usable_cores()) if jobs is None else max(1, jobs)
    Image.init()  # in this thread, because reading is not thread-safe
    workers: Workers[T | Broken] = Workers(count)
    pending: deque[_Pending[T | Broken]] = deque()
    try:
        for row, entry in enumerate(entries):
            file = _read(row, entry, pending, limits)
            task = workers.submit(partial(_process, work, file))
            pending.append(_Pending(task, file, 0 if isinstance(file, Broken) else len(file.data)))
            while len(pending) >= 2 * count or sum(item.size for item in pending) > _READ_AHEAD:
                yield _pop_oldest(workers, pending, limits)
        while pending:
            yield _pop_oldest(workers, pending, limits)
    finally:
        workers.close()


def _pop_oldest(workers: Workers[T | Broken], pending: deque[_Pending[T | Broken]], limits: Limits) -> T | Broken:
    """Wait for the oldest pending result; abandon any task that hangs in the meantime."""
    tick = min(_TICK, limits.seconds / 4)
    while not pending[0].task.done.wait(tick):
        for item in pending:
            if isinstance(item.file, File) and not item.task.done.is_set() and item.file.allowance.watch(tick):
                item.file.allowance.abandon()
                workers.abandon(item.task, Broken(item.file.name, item.file.allowance.too_slow))
    return pending.popleft().task.result()


def _read(row: int, entry: Entry, pending: Sequence[_Pending[T]], limits: Limits) -> File | Broken:
    if entry.name.lower().endswith(UNSUPPORTED):
        return Broken(entry.name, "this format is not supported: convert it to PNG or JPEG")
    try:
        try:
            data = entry.read()
        except MemoryError:
            for item in pending:
                item.task.done.wait(2 * limits.seconds)
            data = entry.read()
        return File(row, entry.name, data, Allowance(limits))
    except Refused as refusal:
        return Broken(entry.name, str(refusal))
    except MemoryError:
        return Broken(entry.name, _NO_MEMORY)
    except Exception as error:  # a damaged archive can raise anything
        return Broken(entry.name, f"its bytes cannot be read ({printable(str(error))})")


def _process(work: Callable[[File], T], file: File | Broken) -> T | Broken:
    if isinstance(file, Broken):
        return file
    file.allowance.start()
    try:
        try:
            return work(file)
        except MemoryError:
            pass  # retry outside of this clause, where the decoded data is freed
        with file.allowance.exclusive() as allowance:
            return work(replace(file, allowance=allowance))
    except MemoryError:
        return Broken(file.name, _NO_MEMORY)
    except Exception as error:  # on damaged bytes, a decoder can raise anything
        return Broken(file.name, _reason(error, file.data))


def _reason(error: Exception, data: bytes) -> str:
    if not data:
        return "the file is empty"
    if isinstance(error, UnidentifiedImageError):
        return f"it is damaged or not one of {', '.join(FORMATS)}; it begins with {data[:12]!r}"
    if isinstance(error, Refused | Image.DecompressionBombError):
        return str(error)
    if "truncated" in str(error).lower():
        return f"it is truncated ({error})"
    return f"its data is damaged ({type(error).__name__}: {printable(str(error))})"
