"""A run's events -> progress on stderr: bars on a terminal, plain lines elsewhere, JSON lines with --json."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict

from graftcli import events
from graftcli.cli import render, render_run, render_streams

_LINE_EVERY = 5.0  # seconds between two plain lines of one task


@contextmanager
def listening(*, as_json: bool, quiet: bool) -> Iterator[events.Listener]:
    """A listener that suits the terminal, until the run is over; through it Ctrl-C is heard for certain."""
    with _telling(as_json, quiet) as told, _interruptible() as check:

        def listen(event: events.Event) -> None:
            check()
            told(event)

        yield listen


@contextmanager
def _telling(as_json: bool, quiet: bool) -> Iterator[events.Listener]:
    if as_json or quiet or not render.ERR.is_terminal:
        told = _json_line if as_json else _Lines()
        yield _only_warnings(told) if quiet else told
        return
    with render_run.Bars() as bars:
        yield bars


@contextmanager
def _interruptible() -> Iterator[Callable[[], None]]:
    """A check that raises where Ctrl-C was lost: raised within a destructor, Python drops any exception."""
    asked = False

    def stop(*_: object) -> None:
        nonlocal asked
        asked = True
        raise KeyboardInterrupt

    def check() -> None:
        if asked:
            raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGINT)
    mine = before is signal.default_int_handler and threading.current_thread() is threading.main_thread()
    if mine:
        signal.signal(signal.SIGINT, stop)
    try:
        yield check
    finally:
        if mine:
            signal.signal(signal.SIGINT, before)


def _json_line(event: events.Event) -> None:
    render_streams.write_message(render.as_json({"event": type(event).__name__.lower(), **asdict(event)}) + "\n")


def warn(text: str, *, as_json: bool) -> None:
    """A warning outside of a run, in the form of the command's other messages."""
    if as_json:
        _json_line(events.Warned(text))
    else:
        render.warning(text)


def _only_warnings(told: events.Listener) -> events.Listener:
    return lambda event: told(event) if isinstance(event, events.Warned) else None


class _Lines:
    """A line when something begins or ends, and every few seconds between."""

    def __init__(self) -> None:
        self._told = 0.0

    def __call__(self, event: events.Event) -> None:
        if isinstance(event, events.Warned):
            render.warning(event.text)
        elif (text := render_run.said(event)) is not None and self._is_due(event):
            self._told = time.monotonic()
            render.note(text)

    def _is_due(self, event: events.Event) -> bool:
        frequent = isinstance(event, events.TaskStep | events.Counted)
        return not frequent or time.monotonic() - self._told > _LINE_EVERY
