"""A pool of daemon threads that can be abandoned: neither closing the pool nor exiting Python waits for a hung one.

A thread cannot be stopped from outside, so a task that hangs is abandoned and its thread replaced.
"""

import threading
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

T = TypeVar("T")

_JOIN = 2.0  # seconds for idle threads to end


class WorkerTask(Generic[T]):
    """A call and, once `done` is set, its result or error. The first one set is kept."""

    def __init__(self, call: Callable[[], T]) -> None:
        self.done = threading.Event()
        self._call = call
        self._lock = threading.Lock()
        self._value: T | None = None
        self._error: BaseException | None = None

    def run(self) -> bool:
        """Make the call. False if the task was settled in the meantime, that is, abandoned."""
        try:
            return self.settle(self._call())
        except BaseException as error:  # raised by `result`, in the thread that calls it
            return self.settle(None, error)

    def settle(self, value: T | None, error: BaseException | None = None) -> bool:
        """Set the result or the error. False if one is set already."""
        with self._lock:
            if self.done.is_set():
                return False
            self._value, self._error = value, error
            del self._call  # releases the file's bytes
            self.done.set()
            return True

    def result(self) -> T:
        """Return what the call returned, or raise what it raised."""
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value]


class Workers(Generic[T]):
    """`count` threads that run tasks in the order of submission."""

    def __init__(self, count: int) -> None:
        self._tasks: SimpleQueue[WorkerTask[T] | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        for _ in range(count):
            self._add()

    def submit(self, call: Callable[[], T]) -> WorkerTask[T]:
        """Queue a call."""
        task = WorkerTask(call)
        self._tasks.put(task)
        return task

    def abandon(self, task: WorkerTask[T], value: T) -> None:
        """Settle a running task with `value`, and replace its thread."""
        if task.settle(value):
            self._add()

    def close(self) -> None:
        """Drop the tasks that have not started. Idle threads end now, the others after their task."""
        with suppress(Empty):
            while True:
                self._tasks.get_nowait()
        for _ in self._threads:
            self._tasks.put(None)
        for thread in self._threads:
            thread.join(_JOIN if thread is self._threads[0] else 0.1)

    def _add(self) -> None:
        thread = threading.Thread(target=self._work, name="graftcli-images", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            if not task.run():
                return  # abandoned: another thread has replaced this one
