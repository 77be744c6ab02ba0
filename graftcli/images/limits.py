"""Limits for decoding: one memory budget for all threads of the process, and a time limit per image."""

import ctypes
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from graftcli.images.refusal import Refused

# A constant, not the free memory: which images are read must not depend on the load of the machine.
MEMORY = 2**30
SECONDS = 60.0  # of CPU time per image; the largest supported images need a tenth of it

_LARGE = 2**26  # bytes above which freed memory is returned to the system


class MemoryBudget:
    """Bytes shared by all threads. A thread that needs more than is free waits, first come, first served."""

    def __init__(self, total: int = MEMORY) -> None:
        self._total, self._used, self._lost = total, 0, 0
        self._waiting: deque[object] = deque()
        self._changed = threading.Condition()

    @property
    def available(self) -> int:
        """Bytes available to one image once all others are done: the total without what abandoned threads hold."""
        return self._total - self._lost

    def acquire(self, need: int) -> None:
        """Wait until `need` bytes are free. Raises Refused if they never will be."""
        ticket = object()
        with self._changed:
            self._waiting.append(ticket)
            try:
                while self._waiting[0] is not ticket or self._used + need > self._total:
                    self._check(need)
                    self._changed.wait()
                self._check(need)
                self._used += need
            finally:
                self._waiting.remove(ticket)
                self._changed.notify_all()

    def release(self, need: int, abandoned: bool = False) -> None:
        """Return acquired bytes."""
        with self._changed:
            self._used -= need
            self._lost -= need if abandoned else 0
            self._changed.notify_all()

    def write_off(self, need: int) -> None:
        """Count bytes as lost: the thread that holds them was abandoned and may never release them."""
        with self._changed:
            self._lost += need
            self._changed.notify_all()

    def _check(self, need: int) -> None:
        if need > self.available:
            raise Refused(f"decoding it needs {_mib(need)} of memory; the limit is {_mib(self.available)}")


@dataclass(frozen=True)
class Limits:
    """`memory` is shared by all images that are decoded with these limits; `seconds` is per image."""

    memory: MemoryBudget = field(default_factory=MemoryBudget)
    seconds: float = SECONDS


DEFAULT_LIMITS = Limits()


class Allowance:
    """The memory and time of one image. One thread decodes it; another may watch and abandon it."""

    def __init__(self, limits: Limits = DEFAULT_LIMITS) -> None:
        self._limits = limits
        self._lock = threading.Lock()
        self._reserved, self._started, self._watched = 0, time.thread_time(), 0.0
        self._running, self._abandoned = False, False

    @property
    def available(self) -> int:
        """Bytes that this image can have."""
        return self._limits.memory.available

    def start(self) -> None:
        """Start the clock; called by the decoding thread."""
        self._started, self._running = time.thread_time(), True

    def check(self) -> None:
        """Raise Refused once the time is over. It is CPU time, so that a busy or suspended machine loses no image."""
        if time.thread_time() - self._started > self._limits.seconds:
            raise Refused(self.too_slow)

    @property
    def too_slow(self) -> str:
        """The error for an image that takes too long."""
        return f"decoding it takes more than {self._limits.seconds:g} s"

    @contextmanager
    def reserve(self, need: int) -> Iterator[None]:
        """Hold `need` bytes of the budget. Waiting for them does not count as decoding time."""
        self._running = False
        self._limits.memory.acquire(need)
        with self._lock:
            self._running, self._reserved = True, need
        try:
            yield
        finally:
            if need > _LARGE:
                _trim_heap()
            with self._lock:
                self._reserved = 0
                self._limits.memory.release(need, self._abandoned)

    @contextmanager
    def exclusive(self) -> Iterator["Allowance"]:
        """Reserve the whole budget for this image; no other image is decoded at the same time."""
        available = self.available
        with self.reserve(available):
            allowance = Allowance(Limits(MemoryBudget(available), self._limits.seconds))
            allowance.start()
            yield allowance

    def watch(self, seconds: float) -> bool:
        """Add the seconds that the watching thread waited; True once they exceed twice the limit.

        This is wall-clock time, for a decoder that hangs; `check` stops any that still reads.
        """
        self._watched += seconds if self._running else 0
        return self._watched > 2 * self._limits.seconds

    def abandon(self) -> None:
        """Abandon the image. The memory of its thread is lost until that thread ends."""
        with self._lock:
            self._abandoned = True
            self._limits.memory.write_off(self._reserved)


def _trim_heap() -> None:
    """Return freed memory to the system; glibc keeps it per thread."""
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)


def _mib(count: int) -> str:
    return f"{count / 2**20:,.0f} MiB"
