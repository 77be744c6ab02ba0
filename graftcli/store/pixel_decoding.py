"""Decode all images of a source into the rows of a file, except those that an earlier session decoded."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from graftcli.environment.machine import usable_cores
from graftcli.images.limits import DEFAULT_LIMITS, Limits
from graftcli.images.sources import SourceFiles
from graftcli.images.sources.place import source_text
from graftcli.store.atomic import writing
from graftcli.store.pixel_chunks import CHUNK_BYTES, Chunk, Journal, Layout, decode_chunk
from graftcli.store.pixel_process import Job, decode_in_processes
from graftcli.store.pixel_table import PixelTable
from graftcli.store.row_file import reserve

_THREADS = 4  # per process; more threads would wait for the one that reads


@dataclass(frozen=True)
class DecodeOptions:
    """How images are decoded; none of these options affects the pixels."""

    jobs: int | None = None  # decoding threads in all; None: one per core
    processes: int | None = None  # None: one per four threads
    strict: bool = False
    limits: Limits = field(default_factory=lambda: DEFAULT_LIMITS)
    chunk_bytes: int = CHUNK_BYTES
    on_progress: Callable[[int, int], None] = lambda _done, _total: None
    warn: Callable[[str], None] = lambda _: None

    def shares(self) -> tuple[int, int]:
        """The number of decoding processes, and of threads in each."""
        jobs = usable_cores() if self.jobs is None else self.jobs
        processes = -(-jobs // _THREADS) if self.processes is None else self.processes
        return processes, max(1, jobs // processes)


def decode_rows(
    source: str | Path, opened: SourceFiles, layout: Layout, state: str, options: DecodeOptions
) -> PixelTable:
    """Decode the images of an open source that the journal does not list as complete."""
    journal, table = Journal(layout.path.with_suffix(".journal"), layout), PixelTable(layout.count)
    waiting = dict.fromkeys(range(layout.chunks))
    for chunk in journal.read():
        table.add(layout.rows(chunk.number), chunk.results)
        del waiting[chunk.number]
    _create(layout)
    progress = _Progress(table.done, layout.count, options.on_progress)
    processes, jobs = options.shares()
    if processes > 1 and len(waiting) > 1:
        job = Job(source_text(source), state, opened.selection, layout, jobs, options.limits.seconds)
        chunks = decode_in_processes(job, tuple(waiting), processes)
    else:
        chunks = _decode_here(opened, layout, tuple(waiting), jobs, options.limits, progress)
    for chunk in chunks:
        journal.add(chunk)
        table.add(layout.rows(chunk.number), chunk.results)
        progress.set(table.done)
    table.sort()
    return table


class _Progress:
    """Counts the decoded images, and reports their number."""

    def __init__(self, done: int, total: int, report: Callable[[int, int], None]) -> None:
        self.done, self.total, self.report = done, total, report

    def add(self, count: int) -> None:
        self.set(self.done + count)

    def set(self, done: int) -> None:
        if done != self.done:
            self.done = done
            self.report(done, self.total)


def _decode_here(
    opened: SourceFiles,
    layout: Layout,
    numbers: Sequence[int],
    jobs: int,
    limits: Limits,
    progress: _Progress,
) -> Iterator[Chunk]:
    for number in numbers:
        yield decode_chunk(layout, opened.entries, number, jobs=jobs, limits=limits, report=progress.add)


def _create(layout: Layout) -> None:
    """Create the file of rows with its disk space reserved, if it does not exist."""
    size = layout.count * layout.row_bytes
    with writing(layout.path, size):
        file = os.open(layout.path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if os.fstat(file).st_size != size:
                os.ftruncate(file, 0)
                reserve(file, size)
        finally:
            os.close(file)
