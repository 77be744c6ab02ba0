"""`check`: every file in a run's folder, compared with what graftcli wrote."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from graftcli.errors import CheckpointError
from graftcli.models.loading.tensor_file import check as check_tensors
from graftcli.store import BLOCKS, CACHE, METRICS_FILE, STATES
from graftcli.store.cache_files import is_whole_pixels
from graftcli.store.cache_progress import read_page
from graftcli.store.row_file import Sums
from graftcli.store.run_file import RUN_FILE
from graftcli.store.run_record import command_of, digest_of_file, read_record

State = Literal["whole", "damaged", "missing"]


@dataclass(frozen=True)
class FileCheck:
    """A file of a run, and what was found of it."""

    name: str  # relative to the run's folder
    state: State
    detail: str = ""


@dataclass(frozen=True)
class RunCheck:
    """All files of a run. `command` makes again what is damaged."""

    folder: str
    files: tuple[FileCheck, ...]
    command: str | None

    @property
    def is_whole(self) -> bool:
        return all(file.state == "whole" for file in self.files)


def check_run(folder: str | Path) -> RunCheck:
    """Verify the record, the trained blocks, the training states, the caches and the network of a run.

    Parameters
    ----------
    folder: the folder of a run.

    Returns the state of each file. Raises UsageError where there is no run, and CheckpointError where its record
    cannot be used.
    """
    folder = Path(folder).expanduser()
    run = read_record(folder)
    found = [
        FileCheck(RUN_FILE, "whole"),
        *_recorded(folder, run),
        *_tensors(folder, run),
        *_caches(folder),
        *_metrics(folder),
    ]
    command = command_of(run)
    return RunCheck(str(folder), tuple(found), command)


def _recorded(folder: Path, run: Mapping[str, Any]) -> Iterator[FileCheck]:
    """The files whose digests the record holds: the network and the blocks of a finished run, and single files."""
    beside = {path: digest for path, digest in run.get("singles", {}).items() if digest is not None}
    for name, digest in {**run.get("files", {}), **beside}.items():
        found = digest_of_file(folder / name)
        if found is None:
            yield FileCheck(name, "missing")
        elif found != digest:
            yield FileCheck(name, "damaged", f"its sha256 is {found[:12]}…, {digest[:12]}… was written")
        else:
            yield FileCheck(name, "whole")


def _tensors(folder: Path, run: Mapping[str, Any]) -> Iterator[FileCheck]:
    """Blocks and states of a run that is not finished, by the digests that they carry."""
    for path in sorted(path for place in (BLOCKS, STATES) for path in folder.glob(f"{place}/*.safetensors")):
        name = str(path.relative_to(folder))
        if name in run.get("files", {}):
            continue
        try:
            check_tensors(path)
        except CheckpointError as fault:
            yield FileCheck(name, "damaged", fault.found)
        else:
            yield FileCheck(name, "whole")


def _caches(folder: Path) -> Iterator[FileCheck]:
    """The cached teacher features that are written, and the synthetic images."""
    listed = set()
    for path in sorted(folder.glob(f"{CACHE}/*-done.json")):
        page = read_page(path)
        if page is None:
            yield FileCheck(str(path.relative_to(folder)), "damaged", "it does not say how many rows are written")
            continue
        for value, (row, total) in page.rows.items():
            file = path.with_name(f"{path.name.removesuffix('-done.json')}-{value}.bin")
            listed.add(file)
            yield _rows(folder, file, page.done, row, total)
    for file in sorted(path for path in folder.glob(f"{CACHE}/synthetic*.bin") if path.is_file()):
        state: State = "whole" if is_whole_pixels(file) else "damaged"
        yield FileCheck(str(file.relative_to(folder)), state)


def _rows(folder: Path, file: Path, done: int, row: int, total: int) -> FileCheck:
    name = str(file.relative_to(folder))
    if not file.is_file():
        return FileCheck(name, "missing")
    if file.stat().st_size < done * row:
        return FileCheck(name, "damaged", f"it has {file.stat().st_size:,} bytes of {done * row:,}")
    sums = Sums(done)
    sums.of_file(file, done, row)
    return FileCheck(name, "whole" if sums.total(done) == total else "damaged")


def _metrics(folder: Path) -> Iterator[FileCheck]:
    file = folder / METRICS_FILE
    if not file.is_file():
        return
    for number, line in enumerate(file.read_bytes().splitlines(), 1):
        try:
            json.loads(line)
        except (ValueError, RecursionError):
            yield FileCheck(METRICS_FILE, "damaged", f"line {number} is no JSON")
            return
    yield FileCheck(METRICS_FILE, "whole")
