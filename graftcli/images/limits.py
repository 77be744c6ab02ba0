"""What decoding may take: one memory budget for all threads of this process, and a time limit for each image."""

import ctypes
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from graftcli.images.refusal import Refused

# A constant, never what is free at the moment: which images are read must not depend on the machine's other work.
MEMORY = 2**30
SECONDS = 60.0  # of processor time for one image; the largest that are read take a tenth of it

_LARGE = 2**26  # bytes from which a thread must not keep what it has freed


class MemoryBudget:
    """Bytes of memory that all threads share; a thread that needs more than is free waits, first come, first served."""

    def __init__(self, total: int = MEMORY) -> None:
        self._total, self._used, self._lost = total, 0, 0
        self._waiting: deque[object] = deque()
        self._changed = threading.Condition()

    @property
    def most(self) -> int:
        """What one image can have once all others are done; less while an abandoned thread keeps its share."""
        return self._total - self._lost

    def take(self, need: int) -> None:
        """Wait until `need` bytes are free; raises Refused where they never will be."""
        ticket = object()
        with self._changed:
            self._waiting.append(ticket)
            try:
                while self._waiting[0] is not ticket or self._used + need > self._total:
                    self._within(need)
                    self._changed.wait()
                self._within(need)
                self._used += need
            finally:
                self._waiting.remove(ticket)
                self._changed.notify_all()

    def give(self, need: int, abandoned: bool = False) -> None:
        """Return what was taken."""
        with self._changed:
            self._used -= need
            self._lost -= need if abandoned else 0
            self._changed.notify_all()

    def write_off(self, need: int) -> None:
        """Count these bytes as lost: the thread that holds them was abandoned, and may never return them."""
        with self._changed:
            self._lost += need
            self._changed.notify_all()

    def _within(self, need: int) -> None:
        if need > self.most:
            raise Refused(f"decoding it needs {_mib(need)} of memory; {_mib(self.most)} is the most that is used")


@dataclass(frozen=True)
class Limits:
    """`memory` is shared by all images that are decoded with these limits; `seconds` is for each of them."""

    memory: MemoryBudget = field(default_factory=MemoryBudget)
    seconds: float = SECONDS


SHARED = Limits()


class Allowance:
    """What one image may take, and what it takes now. One thread decodes it; another may watch and abandon it."""

    def __init__(self, limits: Limits = SHARED) -> None:
        self._limits = limits
        self._lock = threading.Lock()
        self._held, self._began, self._watched = 0, time.thread_time(), 0.0
        self._running, self._abandoned = False, False

    @property
    def most(self) -> int:
        return self._limits.memory.most

    def start(self) -> None:
        """The calling thread begins to decode."""
        self._began, self._running = time.thread_time(), True

    def check(self) -> None:
        """Raise Refused when the time is over. Processor time: a suspended or busy machine spoils no image."""
        if time.thread_time() - self._began > self._limits.seconds:
            raise Refused(self.too_slow)

    @property
    def too_slow(self) -> str:
        return f"decoding it takes more than {self._limits.seconds:g} s"

    @contextmanager
    def room(self, need: int) -> Iterator[None]:
        """Hold `need` bytes of the budget. The wait for them does not count as decoding time."""
        self._running = False
        self._limits.memory.take(need)
        with self._lock:
            self._running, self._held = True, need
        try:
            yield
        finally:
            if need > _LARGE:
                _return_freed()
            with self._lock:
                self._held = 0
                self._limits.memory.give(need, self._abandoned)

    @contextmanager
    def alone(self) -> Iterator["Allowance"]:
        """The whole budget for this image, as an allowance of its own; no other image is decoded meanwhile."""
        most = self.most
        with self.room(most):
            other = Allowance(Limits(MemoryBudget(most), self._limits.seconds))
            other.start()
            yield other

    def watch(self, seconds: float) -> bool:
        """Add the seconds that a watcher waited for this image; True once they are more than twice the limit.

        Twice, because this is real time: `check` ends whatever can be ended, and this is for a decoder that hangs.
        """
        self._watched += seconds if self._running else 0
        return self._watched > 2 * self._limits.seconds

    def abandon(self) -> None:
        """Give the image up; what its thread holds is lost until that thread ends."""
        with self._lock:
            self._abandoned = True
            self._limits.memory.write_off(self._held)


def _return_freed() -> None:
    """Return freed memory to the system: glibc keeps it for each thread, and they do not share it."""
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)


def _mib(count: int) -> str:
    return f"{count / 2**20:,.0f} MiB"
