"""`graftcli check`: verify the files in the folder of a run."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from graftcli.errors import CheckpointError
from graftcli.models.loading.tensor_file import check as check_tensors
from graftcli.store import BLOCKS, CACHE, METRICS_FILE, STATES
from graftcli.store.cache_files import is_intact_pixels
from graftcli.store.cache_progress import read_progress
from graftcli.store.row_file import Checksums
from graftcli.store.run_file import RUN_FILE, digest_of_file, read_record
from graftcli.store.run_record import RunRecord

State = Literal["intact", "damaged", "missing"]


@dataclass(frozen=True)
class FileCheck:
    """The state of one file of a run."""

    name: str  # relative to the run's folder
    state: State
    detail: str = ""


@dataclass(frozen=True)
class RunCheck:
    """The states of all files of a run; running `command` again restores damaged files."""

    folder: str
    files: tuple[FileCheck, ...]
    command: str | None

    @property
    def is_intact(self) -> bool:
        """Whether no file is damaged or missing."""
        return all(file.state == "intact" for file in self.files)


def check_run(folder: str | Path) -> RunCheck:
    """Verify the record, the trained blocks, the training states, the caches and the network of a run.

    Parameters:
        folder: Folder of the run.

    Returns:
        The state of each file.

    Raises:
        UsageError: The folder is not a run.
        CheckpointError: The record of the run is damaged.
    """
    folder = Path(folder).expanduser()
    run = read_record(folder)
    files = [
        FileCheck(RUN_FILE, "intact"),
        *_recorded(folder, run),
        *_tensors(folder, run),
        *_caches(folder),
        *_metrics(folder),
    ]
    return RunCheck(str(folder), tuple(files), run.session.plain_command)


def _recorded(folder: Path, run: RunRecord) -> Iterator[FileCheck]:
    """Check the files whose digests are in the record: network and blocks of a finished run, and single files."""
    single_files = {path: digest for path, digest in run.singles.items() if digest is not None}
    for name, digest in {**run.files, **single_files}.items():
        actual = digest_of_file(folder / name)
        if actual is None:
            yield FileCheck(name, "missing")
        elif actual != digest:
            yield FileCheck(name, "damaged", f"SHA-256 is {actual[:12]}…, expected {digest[:12]}…")
        else:
            yield FileCheck(name, "intact")


def _tensors(folder: Path, run: RunRecord) -> Iterator[FileCheck]:
    """Check the blocks and states of an unfinished run by the digests in the files."""
    for path in sorted(path for name in (BLOCKS, STATES) for path in folder.glob(f"{name}/*.safetensors")):
        name = str(path.relative_to(folder))
        if name in run.files:
            continue
        try:
            check_tensors(path)
        except CheckpointError as error:
            yield FileCheck(name, "damaged", error.message)
        else:
            yield FileCheck(name, "intact")


def _caches(folder: Path) -> Iterator[FileCheck]:
    """Check the cached teacher features and the synthetic images."""
    for path in sorted(folder.glob(f"{CACHE}/*-done.json")):
        progress = read_progress(path)
        if progress is None:
            yield FileCheck(str(path.relative_to(folder)), "damaged", "the number of written rows is missing")
            continue
        for value, (row, total) in progress.rows.items():
            file = path.with_name(f"{path.name.removesuffix('-done.json')}-{value}.bin")
            yield _rows(folder, file, progress.done, row, total)
    for file in sorted(path for path in folder.glob(f"{CACHE}/synthetic*.bin") if path.is_file()):
        state: State = "intact" if is_intact_pixels(file) else "damaged"
        yield FileCheck(str(file.relative_to(folder)), state)


def _rows(folder: Path, file: Path, done: int, row: int, total: int) -> FileCheck:
    name = str(file.relative_to(folder))
    if not file.is_file():
        return FileCheck(name, "missing")
    if file.stat().st_size < done * row:
        return FileCheck(name, "damaged", f"has {file.stat().st_size:,} of {done * row:,} bytes")
    sums = Checksums(done)
    sums.add_file(file, done, row)
    return FileCheck(name, "intact" if sums.total(done) == total else "damaged")


def _metrics(folder: Path) -> Iterator[FileCheck]:
    file = folder / METRICS_FILE
    if not file.is_file():
        return
    for number, line in enumerate(file.read_bytes().splitlines(), 1):
        try:
            json.loads(line)
        except (ValueError, RecursionError):
            yield FileCheck(METRICS_FILE, "damaged", f"line {number} is not JSON")
            return
    yield FileCheck(METRICS_FILE, "intact")
