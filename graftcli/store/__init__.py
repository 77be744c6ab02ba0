"""A run's folder: settings, blocks, states to go on from, metrics. One process at a time writes to it.

run.json                  settings, what was fixed at the start, sessions, status, result
metrics.jsonl             one record a line
report.html, report.json  the report, and what it shows that stands nowhere else
bench.json                the ladder, where it was measured
blocks/NAME.safetensors   the weights of a finished unit
state/NAME.safetensors    where a unit that is not finished goes on; gone when the run is finished
cache/                    what the engine remembers on the disk; gone when the run is finished
.lock                     held by the process that works here, and its name
"""

import json
import math
import os
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Self

from torch import Tensor

from graftcli.environment.machine import peak_memory
from graftcli.errors import GraftError, MachineError, UsageError, few
from graftcli.models.loading.saved import FACTS_FILE, WEIGHTS_FILE
from graftcli.models.loading.tensor_file import Damaged
from graftcli.models.loading.tensor_file import check as check_file
from graftcli.store import model_card as card
from graftcli.store.atomic import (
    TEMPORARY,
    plain,
    read_facts,
    read_state,
    read_tensors,
    remove_abandoned,
    write_bytes,
    write_state,
    write_tensors,
    writing,
)
from graftcli.store.cache_files import Cache
from graftcli.store.locks import LOCK_FILE, locked
from graftcli.store.run_file import RUN_FILE, new_run, newest, now, read_run, run_to_go_on, write_run
from graftcli.store.run_record import digest_of_file

__all__ = ["Store", "UnitState", "newest", "read_run"]

METRICS_FILE = "metrics.jsonl"
REPORT_FILE, REPORT_FACTS_FILE, BENCH_FILE = "report.html", "report.json", "bench.json"
BLOCKS, STATES, CACHE = "blocks", "state", "cache"

_NETWORK = (WEIGHTS_FILE, FACTS_FILE, card.CONFIG_FILE)  # whose digests the record of a finished run holds
_UNFINISHED = (f"{STATES}/*.safetensors", f"{CACHE}/*.bin", f"{CACHE}/*.json")
_LEFT_BEHIND = tuple(f"{folder}.*{TEMPORARY}" for folder in ("", f"{BLOCKS}/", f"{STATES}/", f"{CACHE}/"))
# what is exported into a run's folder, and not into a file that somebody names
_EXPORTED = tuple(
    f"{name}{ending}"
    for name in ("student", "hybrid")
    for ending in (".onnx", "-fp16.onnx", "-int8.onnx", ".pt2", ".safetensors")
)
# everything that graftcli writes into a run's folder, and nothing else is ever removed; run.json first: without it,
# what is left by a kill in between is no run
WRITTEN = (
    *(RUN_FILE, METRICS_FILE, *card.FILES, REPORT_FILE, REPORT_FACTS_FILE, BENCH_FILE),
    *(f"{BLOCKS}/*.safetensors", *_UNFINISHED, *_LEFT_BEHIND),
    *_EXPORTED,
)


@dataclass(frozen=True)
class TimeSpent:
    """What a run has taken, over all of its sessions."""

    seconds: float
    peak_memory: int  # bytes


class Store:
    """The folder of one run, held until the context ends.

    A folder whose run has the same settings goes on (`resumed`), one with other settings is refused. With `overwrite`
    it starts anew, unless it was a run with these settings that was interrupted: that one goes on.
    """

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, Any],
        *,
        overwrite: bool = False,
        about: Mapping[str, Any] | None = None,
        warn: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`settings` are all that decides the result; `about` is what else run.json says of this session: versions,
        the command line. `warn` hears of damaged files."""
        self.folder, self.cache, self._warn = folder, Cache(folder / CACHE, self._tell), warn
        _check_place(folder, overwrite)
        self._lock = locked(folder)
        self._began = time.monotonic()
        try:
            found = run_to_go_on(folder, plain(settings), overwrite)
            self.resumed = found is not None
            self._run = found or new_run(plain(settings))
            if not self.resumed:
                _remove(folder, WRITTEN)
            if self.finished is None:
                self._begin(plain(about or {}))
            else:
                _remove(folder, _UNFINISHED)
                remove_abandoned(folder)  # a report, say, whose writing was killed
        except BaseException:
            self._lock.close()
            raise

    def _begin(self, about: dict[str, Any]) -> None:
        """A session of a run that is not finished; what a kill left behind, or damage, is removed first."""
        _remove(self.folder, _LEFT_BEHIND)
        self._run["sessions"].append({"started": now(), "host": socket.gethostname(), **about})
        self._drop_damaged()
        self._keep_metrics()
        self._save()

    def _drop_damaged(self) -> None:
        """Remove blocks and states that are not what was written: they are computed again."""
        for path in sorted(path for folder in (BLOCKS, STATES) for path in self.folder.glob(f"{folder}/*.safetensors")):
            try:
                check_file(path)
            except Damaged as fault:
                self._tell(f"{fault.found} It is computed again.")
                with writing(path):
                    path.unlink()

    def damaged(self) -> list[str]:
        """Of a finished run, the files of its network and its blocks that are missing or not what was written."""
        files = self._run.get("files", {})
        names = dict.fromkeys((WEIGHTS_FILE, FACTS_FILE, *files))
        return [name for name in names if digest_of_file(self.folder / name) != files.get(name)]

    def reopen(self, about: Mapping[str, Any], why: str) -> None:
        """A finished run is under way again: its blocks are there, and its network is merged again."""
        self._run["status"] = "running"
        for name in ("result", "ended", "files"):
            self._run.pop(name, None)
        self.resumed = True
        self._begin(plain(about))
        self._tell(why)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, problem: type[BaseException] | None, *_: object) -> None:
        if self.finished is None:
            with suppress(*([GraftError] if problem else [])):  # what ended the session is what is to be told
                self._save()  # an interrupted session has taken its time too
        self._lock.close()  # the file stays: a lock on a removed file would keep nobody out

    def check_held(self) -> None:
        """The folder is the one that this process locked: nobody removed it, or put another in its place."""
        try:
            held = os.path.samestat(os.fstat(self._lock.fileno()), (self.folder / LOCK_FILE).stat())
        except OSError:
            held = False
        if not held:
            found = f"`{self.folder}` was removed or replaced while this run worked in it."
            raise MachineError(found, "Run the same command again; blocks that were trained are lost with the folder.")

    def _save(self) -> None:
        self.check_held()
        if self.finished is None:
            seconds = round(time.monotonic() - self._began, 3)
            self._run["sessions"][-1] |= {"seconds": seconds, "peak_memory": peak_memory()}
        write_run(self.folder, self._run)

    @property
    def spent(self) -> TimeSpent:
        """Of a session that was killed, what it had taken when a state was last kept."""
        before = self._run["sessions"][:-1]
        seconds = time.monotonic() - self._began + sum(session.get("seconds", 0.0) for session in before)
        return TimeSpent(seconds, max([peak_memory(), *(session.get("peak_memory", 0) for session in before)]))

    def fixed(self, compute: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
        """What depends on the moment: computed once, when the run starts, and as JSON gives it back ever after."""
        if "fixed" not in self._run:
            self._run["fixed"] = plain(compute())
            self._save()
        fixed: dict[str, Any] = self._run["fixed"]
        return fixed

    def beside(self, single: Path) -> None:
        """The run's network goes into this file too: recorded before it is written, as the run's own."""
        self._run.setdefault("singles", {}).setdefault(str(single.absolute()), None)
        self._save()

    def written(self, single: Path) -> None:
        """The file beside the run is whole: from now on damage to it is found."""
        self._run["singles"][str(single.absolute())] = digest_of_file(single)
        self._save()

    def has(self, single: Path) -> bool:
        """Whether the file beside the run is there, as it was written."""
        return single.is_file() and self._run["singles"].get(str(single.absolute())) == digest_of_file(single)

    def unit(self, name: str) -> "UnitState":
        return UnitState(self.folder, name, self._save, self.check_held)

    def metric(self, record: Mapping[str, Any]) -> None:
        """One more line of metrics.jsonl. A record of a unit names it as `unit`, with the `step`; a resumed run writes
        all others again."""
        line = f"{json.dumps(plain(record))}\n".encode()
        path = self.folder / METRICS_FILE
        with writing(path, len(line)), path.open("ab") as file:
            file.write(line)

    def _tell(self, text: str) -> None:
        """A warning of the store's own."""
        self.warned(text)
        self._warn(text)

    def warned(self, text: str) -> None:
        """A warning of this session, for the report."""
        self._run["sessions"][-1].setdefault("warnings", []).append(text)
        self._save()

    def _keep_metrics(self) -> None:
        """Only the records that the run, as it goes on from here, will not write again."""
        path = self.folder / METRICS_FILE
        if path.exists():
            reached = cache(lambda name: self.unit(name).step)
            lines = path.read_bytes().splitlines(keepends=True)
            kept = [line for line in lines if line.endswith(b"\n") and _is_past(line, reached)]
            if kept != lines:
                write_bytes(path, b"".join(kept))

    @property
    def finished(self) -> dict[str, Any] | None:
        """The result of a run that is done."""
        return self._run.get("result")

    def finish(self, result: Mapping[str, Any]) -> None:
        """The run is done: call it when everything else is written."""
        self._save()  # while the session is under way still: what it took
        blocks = (str(path.relative_to(self.folder)) for path in self.folder.glob(f"{BLOCKS}/*.safetensors"))
        names = (*_NETWORK, *sorted(blocks))
        files = {name: digest for name in names if (digest := digest_of_file(self.folder / name)) is not None}
        self._run |= {"status": "finished", "ended": now(), "result": plain(result), "files": files}
        self._save()
        _remove(self.folder, _UNFINISHED)


class UnitState:
    """What a run's folder holds of one unit."""

    def __init__(
        self,
        folder: Path,
        name: str,
        kept: Callable[[], None] = lambda: None,
        about_to_keep: Callable[[], None] = lambda: None,
    ) -> None:
        """`kept` is called after every state, and the weights at the end, are written, `about_to_keep` before."""
        self._kept, self._about_to_keep = kept, about_to_keep
        self._block = folder / BLOCKS / f"{name}.safetensors"
        self._state = folder / STATES / f"{name}.safetensors"

    @property
    def finished(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The weights that the unit ended with, and the facts."""
        return read_tensors(self._block) if self._block.exists() else None

    @property
    def step(self) -> float:
        """The step that the unit goes on from; -1 where it starts anew, infinite where it is finished."""
        if self._block.exists():
            return math.inf
        return int(read_facts(self._state)["step"]) if self._state.exists() else -1

    @property
    def state(self) -> dict[str, Any] | None:
        """What was kept last, bit for bit, on the CPU."""
        return read_state(self._state) if self._state.exists() else None

    def keep(self, step: int, state: Mapping[str, Any]) -> None:
        """Replace the state by that after `step`: nested dicts, lists and tuples of tensors and numbers."""
        self._about_to_keep()
        write_state(self._state, state, {"step": step})
        self._kept()

    def finish(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        self._about_to_keep()
        write_tensors(self._block, tensors, facts)
        with writing(self._state):
            self._state.unlink(missing_ok=True)
        self._kept()


def _is_past(line: bytes, reached: Callable[[str], float]) -> bool:
    """Whether a line of metrics.jsonl is whole and tells of a step that lies behind."""
    try:
        record = json.loads(line)
        return bool(record["step"] <= reached(record["unit"]))
    except (ValueError, KeyError, TypeError):
        return False


# -- whose folder it is -------------------------------------------------------------------------------------------


def _check_place(folder: Path, overwrite: bool) -> None:
    """Whether the path is free, a run's folder, or to be overwritten."""
    with writing(folder):
        if folder.exists() and not folder.is_dir():
            raise UsageError(f"`{folder}` is a file; a run needs a folder.", "Choose another one with --out.")
        own = (folder / name for name in (LOCK_FILE, RUN_FILE, METRICS_FILE, BLOCKS, STATES, CACHE))
        inner = (path for name in (BLOCKS, STATES, CACHE) for path in folder.glob(f"{name}/*"))
        if (link := next((path for path in (*own, *inner) if path.is_symlink()), None)) is not None:
            found = f"`{link}` is a link; a run keeps its files in its own folder."
            raise UsageError(found, "Remove the link, or choose another folder with --out.")
        if not folder.exists() or (folder / RUN_FILE).exists() or overwrite:
            return
        others = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    if others:
        named = few([f"`{name}`" for name in others])
        found = f"`{folder}` holds {named}, but no {RUN_FILE}: it is no run."
        files = (RUN_FILE, METRICS_FILE, *card.FILES, REPORT_FILE, REPORT_FACTS_FILE, BENCH_FILE)
        mine = ", ".join((*files, f"{BLOCKS}/", f"{STATES}/", *_EXPORTED))
        raise UsageError(
            found, f"Choose another one with --out. Or replace in it, with --overwrite, these and nothing else: {mine}."
        )


def _remove(folder: Path, patterns: tuple[str, ...]) -> None:
    """The files of these patterns, and the folders of theirs that are then empty."""
    for path in [path for pattern in patterns for path in sorted(folder.glob(pattern))]:
        with writing(path):
            path.unlink(missing_ok=True)
    for name in (BLOCKS, STATES, CACHE):
        with suppress(OSError):
            (folder / name).rmdir()
