"""Every file of a source through one function, by several threads, in order, with no more than a few in memory.

A file that cannot be read or decoded, or takes too much memory or time, is named with the reason; it never ends the
work on the others.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Generic, TypeVar

from PIL import Image, UnidentifiedImageError

from graftcli.environment.machine import usable_cores
from graftcli.images.limits import SHARED, Allowance, Limits
from graftcli.images.pixels import FORMATS
from graftcli.images.refusal import Refused
from graftcli.images.sources import FOREIGN, Entry, printable
from graftcli.images.workers import Workers, WorkerTask

T = TypeVar("T")
R = TypeVar("R")

_MOST_WORKERS = 16  # more of them wait for the one thread that reads
_AHEAD = 128 * 2**20  # bytes of files that are read before their turn
_TICK = 0.5  # seconds after which a watcher looks again
_NO_MEMORY = "memory ran out while it was read, also with no other image in memory"


@dataclass(frozen=True)
class Broken:
    name: str
    reason: str


@dataclass(frozen=True)
class File:
    row: int  # its place among the entries
    name: str
    data: bytes
    allowance: Allowance


@dataclass(frozen=True)
class _Waiting(Generic[R]):
    task: WorkerTask[R]
    file: File | Broken
    size: int


def each(
    entries: Sequence[Entry], work: Callable[[File], T], jobs: int | None = None, limits: Limits = SHARED
) -> Iterator[T | Broken]:
    """What `work` makes of each entry's bytes, or why it could not, in the order of the entries.

    `work` may still run after its image took too long and was named as broken: it must return what it makes.
    """
    count = min(_MOST_WORKERS, usable_cores()) if jobs is None else max(1, jobs)
    Image.init()  # here, because it is not made for several threads at once
    workers: Workers[T | Broken] = Workers(count)
    waiting: deque[_Waiting[T | Broken]] = deque()
    try:
        for row, entry in enumerate(entries):
            file = _fetched(row, entry, waiting, limits)
            task = workers.submit(partial(_settled, work, file))
            waiting.append(_Waiting(task, file, 0 if isinstance(file, Broken) else len(file.data)))
            while len(waiting) >= 2 * count or sum(one.size for one in waiting) > _AHEAD:
                yield _oldest(workers, waiting, limits)
        while waiting:
            yield _oldest(workers, waiting, limits)
    finally:
        workers.close()


def _oldest(workers: Workers[T | Broken], waiting: deque[_Waiting[T | Broken]], limits: Limits) -> T | Broken:
    """The result of the first that waits; whichever of them hangs is abandoned meanwhile."""
    tick = min(_TICK, limits.seconds / 4)
    while not waiting[0].task.done.wait(tick):
        for one in waiting:
            if isinstance(one.file, File) and not one.task.done.is_set() and one.file.allowance.watch(tick):
                one.file.allowance.abandon()
                workers.abandon(one.task, Broken(one.file.name, one.file.allowance.too_slow))
    return waiting.popleft().task.result()


def _fetched(row: int, entry: Entry, waiting: Sequence[_Waiting[T]], limits: Limits) -> File | Broken:
    if entry.name.lower().endswith(FOREIGN):
        return Broken(entry.name, "this kind of file is not read: convert it to PNG or JPEG")
    try:
        try:
            data = entry.read()
        except MemoryError:
            for one in waiting:
                one.task.done.wait(2 * limits.seconds)
            data = entry.read()
        return File(row, entry.name, data, Allowance(limits))
    except Refused as refusal:
        return Broken(entry.name, str(refusal))
    except MemoryError:
        return Broken(entry.name, _NO_MEMORY)
    except Exception as error:  # a damaged archive raises whatever its damage leads to
        return Broken(entry.name, f"its bytes cannot be read ({printable(str(error))})")


def _settled(work: Callable[[File], T], file: File | Broken) -> T | Broken:
    if isinstance(file, Broken):
        return file
    file.allowance.start()
    try:
        try:
            return work(file)
        except MemoryError:
            pass  # outside of this clause, where what was decoded is free again
        with file.allowance.alone() as whole:
            return work(replace(file, allowance=whole))
    except MemoryError:
        return Broken(file.name, _NO_MEMORY)
    except Exception as error:  # damaged bytes lead a decoder to any exception there is
        return Broken(file.name, _reason(error, file.data))


def _reason(error: Exception, data: bytes) -> str:
    if not data:
        return "the file is empty"
    if isinstance(error, UnidentifiedImageError):
        return f"it is damaged or none of {', '.join(FORMATS)}; it begins with {data[:12]!r}"
    if isinstance(error, Refused | Image.DecompressionBombError):
        return str(error)
    if "truncated" in str(error).lower():
        return f"it ends too early ({error})"
    return f"its data is damaged ({type(error).__name__}: {printable(str(error))})"
