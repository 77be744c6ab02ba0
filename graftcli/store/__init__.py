"""The folder of a run: settings, trained blocks, training states and metrics. Only one process writes to it.

run.json                  settings, values fixed at the start, sessions, status, result
metrics.jsonl             one record per line
report.html, report.json  the report, and its data that no other file holds
bench.json                benchmark results, if measured
blocks/NAME.safetensors   the weights of a finished unit
state/NAME.safetensors    the state to resume an unfinished unit from; removed when the run is finished
cache/                    cached teacher features and synthetic images; removed when the run is finished
.lock                     locked by the process that uses the folder; holds its pid and host
"""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from graftcli.environment.machine import peak_memory
from graftcli.errors import GraftError, MachineError
from graftcli.models.loading.saved import FACTS_FILE, WEIGHTS_FILE
from graftcli.models.loading.tensor_file import Damaged
from graftcli.models.loading.tensor_file import check as check_file
from graftcli.store.atomic import remove_abandoned, writing
from graftcli.store.cache_files import Cache
from graftcli.store.folder import (
    BENCH_FILE,
    BLOCKS,
    CACHE,
    FILE_PATTERNS,
    METRICS_FILE,
    NETWORK_FILES,
    REPORT_FACTS_FILE,
    REPORT_FILE,
    STATES,
    TEMPORARY_FILES,
    UNFINISHED,
    check_folder,
    remove,
)
from graftcli.store.locks import LOCK_FILE, locked
from graftcli.store.member import MemberStore
from graftcli.store.metrics import append, drop_repeated
from graftcli.store.resume import newest, resumable_run
from graftcli.store.run_file import digest_of_file, read_record, write_record
from graftcli.store.run_record import FixedSettings, RunRecord, RunResult, RunSettings, Session, now
from graftcli.store.unit_state import UnitState

__all__ = [
    "BENCH_FILE",
    "BLOCKS",
    "CACHE",
    "FILE_PATTERNS",
    "METRICS_FILE",
    "REPORT_FACTS_FILE",
    "REPORT_FILE",
    "STATES",
    "MemberStore",
    "Store",
    "TimeSpent",
    "UnitState",
    "newest",
    "read_record",
]


@dataclass(frozen=True)
class TimeSpent:
    """The time and peak memory of a run over all its sessions."""

    seconds: float
    peak_memory: int  # bytes


class Store:
    """The folder of one run, locked until the context ends.

    A run with the same settings is resumed (`resumed`); a run with different settings raises UsageError. With
    `overwrite` a finished run and a run with different settings start from scratch.
    """

    def __init__(
        self,
        folder: Path,
        settings: RunSettings,
        session: Session | None = None,
        *,
        overwrite: bool = False,
        exported: Sequence[str] = (),
        warn: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Lock the folder and read or create its run.

        Parameters:
            folder: created if it does not exist.
            settings: everything that determines the result.
            session: facts about this session, such as versions and the command.
            overwrite: replace a run or other files, but only those that graftcli writes.
            exported: names of the files that `export` writes into the folder; they belong to the run.
            warn: called with a message about each damaged file.
        """
        self.folder, self.cache, self._warn = folder, Cache(folder / CACHE, self._report), warn
        check_folder(folder, overwrite, exported)
        self._lock = locked(folder)
        self._start, session = time.monotonic(), session or Session()
        try:
            previous = resumable_run(folder, settings, overwrite)
            self.resumed = previous is not None
            self._record = previous or RunRecord(settings=settings, sessions=(session,))
            if not self.resumed:
                remove(folder, (*FILE_PATTERNS, *exported))
            if self.finished is None:
                self._start_session(session)
            else:
                remove(folder, UNFINISHED)
                remove_abandoned(folder)  # for example those of a report, if the process was killed while writing it
        except BaseException:
            self._lock.close()
            raise

    def _start_session(self, session: Session) -> None:
        """Start a session of an unfinished run, after removing temporary and damaged files."""
        remove(self.folder, TEMPORARY_FILES)
        if self._record.session is not session:
            self._update(sessions=(*self._record.sessions, session))
        self._drop_damaged()
        drop_repeated(self.folder / METRICS_FILE, lambda name: self.unit(name).step)
        self._save()

    def _drop_damaged(self) -> None:
        """Remove damaged blocks and states, so that they are recomputed."""
        for path in sorted(path for folder in (BLOCKS, STATES) for path in self.folder.glob(f"{folder}/*.safetensors")):
            try:
                check_file(path)
            except Damaged as fault:
                self._report(f"{fault.message} It is recomputed.")
                with writing(path):
                    path.unlink()

    def damaged(self) -> list[str]:
        """The files of a finished run's network and blocks that are missing or damaged."""
        digests = self._record.files
        names = dict.fromkeys((WEIGHTS_FILE, FACTS_FILE, *digests))
        return [name for name in names if digest_of_file(self.folder / name) != digests.get(name)]

    def reopen(self, session: Session, reason: str) -> None:
        """Set a finished run back to running, to merge its network from its blocks again."""
        self._update(status="running", result=None, ended=None, files={})
        self.resumed = True
        self._start_session(session)
        self._report(reason)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error_type: type[BaseException] | None, *_: object) -> None:
        if self.finished is None:
            with suppress(*([GraftError] if error_type else [])):  # the error that ended the session takes precedence
                self._save()  # records the time of an interrupted session
        self._lock.close()  # the file is not removed, because a lock on a removed file has no effect

    def check_held(self) -> None:
        """Raise MachineError if the locked folder was removed or replaced."""
        try:
            held = os.path.samestat(os.fstat(self._lock.fileno()), (self.folder / LOCK_FILE).stat())
        except OSError:
            held = False
        if not held:
            found = f"`{self.folder}` was removed or replaced during the run."
            raise MachineError(found, "Run the same command again; the trained blocks are lost with the folder.")

    def _save(self) -> None:
        self.check_held()
        if self.finished is None:
            seconds = round(time.monotonic() - self._start, 3)
            self._record = self._record.with_session(seconds=seconds, peak_memory=peak_memory())
        write_record(self.folder, self._record)

    def _update(self, **changes: object) -> None:
        self._record = self._record.model_copy(update=changes)

    @property
    def spent(self) -> TimeSpent:
        """The time and peak memory so far; a killed session counts up to its last saved state."""
        earlier = self._record.sessions[:-1]
        seconds = time.monotonic() - self._start + sum(session.seconds for session in earlier)
        return TimeSpent(seconds, max([peak_memory(), *(session.peak_memory for session in earlier)]))

    def fixed(self, compute: Callable[[], FixedSettings]) -> FixedSettings:
        """Settings that depend on the machine's state: computed at the first call, then read from run.json."""
        fixed = self._record.fixed or compute()
        if self._record.fixed is None:
            self._update(fixed=fixed)
            self._save()
        return fixed

    def add_single(self, single: Path) -> None:
        """Record, before it is written, that the run also writes its network to this single file."""
        self._update(singles={str(single.absolute()): None} | self._record.singles)
        self._save()

    def record_single(self, single: Path) -> None:
        """Record the digest of a single file after it is written."""
        self._update(singles=self._record.singles | {str(single.absolute()): digest_of_file(single)})
        self._save()

    def has_single(self, single: Path) -> bool:
        """Whether the single file exists and is intact."""
        return single.is_file() and self._record.singles.get(str(single.absolute())) == digest_of_file(single)

    def unit(self, name: str) -> UnitState:
        """The state and the result of one task."""
        return UnitState(self.folder, name, self._save, self.check_held)

    def metric(self, record: Mapping[str, object]) -> None:
        """Append a line to metrics.jsonl; a resumed run drops records that it will write again."""
        append(self.folder / METRICS_FILE, record)

    def _report(self, text: str) -> None:
        """Record a warning and pass it to the caller."""
        self.add_warning(text)
        self._warn(text)

    def add_warning(self, text: str) -> None:
        """Record a warning of this session, for the report."""
        self._record = self._record.with_session(warnings=(*self._record.session.warnings, text))
        self._save()

    @property
    def finished(self) -> RunResult | None:
        """The result of a finished run; None for an unfinished one."""
        return self._record.result

    def finish(self, result: RunResult) -> None:
        """Mark the run as finished, after all its files are written."""
        self._save()  # records the time of the session first
        blocks = (str(path.relative_to(self.folder)) for path in self.folder.glob(f"{BLOCKS}/*.safetensors"))
        names = (*NETWORK_FILES, *sorted(blocks))
        files = {name: digest for name in names if (digest := digest_of_file(self.folder / name)) is not None}
        self._update(status="finished", ended=now(), result=result, files=files)
        self._save()
        remove(self.folder, UNFINISHED)
