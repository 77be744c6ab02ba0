"""Show the events of a run on stderr: progress bars on a terminal, else plain lines; JSON lines with --json."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict

from graftcli import events
from graftcli.cli import ranks, render, render_run, render_streams

_LINE_INTERVAL = 5.0  # seconds between plain progress lines


@contextmanager
def listening(*, as_json: bool, quiet: bool) -> Iterator[events.Listener]:
    """Yield a listener that displays events on stderr; it also guarantees that Ctrl-C is never lost.

    In a job of several processes, only the first one displays them.
    """
    with _display(as_json, quiet) as show, _interruptible() as raise_if_interrupted:

        def listen(event: events.Event) -> None:
            raise_if_interrupted()
            show(event)

        yield listen


@contextmanager
def _display(as_json: bool, quiet: bool) -> Iterator[events.Listener]:
    if ranks.rank():
        yield lambda _: None
        return
    if as_json or quiet or not render.ERR.is_terminal:
        show = _json_line if as_json else _Lines()
        yield _only_warnings(show) if quiet else show
        return
    with render_run.Bars() as bars:
        yield bars


@contextmanager
def _interruptible() -> Iterator[Callable[[], None]]:
    """Yield a check that raises a lost Ctrl-C again: Python drops exceptions that are raised in a destructor."""
    interrupted = False

    def stop(*_: object) -> None:
        nonlocal interrupted
        interrupted = True
        raise KeyboardInterrupt

    def check() -> None:
        if interrupted:
            raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGINT)
    replaces = before is signal.default_int_handler and threading.current_thread() is threading.main_thread()
    if replaces:
        signal.signal(signal.SIGINT, stop)
    try:
        yield check
    finally:
        if replaces:
            signal.signal(signal.SIGINT, before)


def _json_line(event: events.Event) -> None:
    render_streams.write_message(render.as_json({"event": type(event).__name__.lower(), **asdict(event)}) + "\n")


def warn(text: str, *, as_json: bool) -> None:
    """Print a warning outside of a run, as JSON or as text."""
    if as_json:
        _json_line(events.Warned(text))
    else:
        render.warning(text)


def _only_warnings(show: events.Listener) -> events.Listener:
    return lambda event: show(event) if isinstance(event, events.Warned) else None


class _Lines:
    """Prints a line when something starts or ends, and every few seconds in between."""

    def __init__(self) -> None:
        self._last_line = 0.0

    def __call__(self, event: events.Event) -> None:
        if isinstance(event, events.Warned):
            render.warning(event.text)
        elif self._is_due(event):
            self._last_line = time.monotonic()
            render.note(render_run.describe(event))

    def _is_due(self, event: events.Event) -> bool:
        frequent = isinstance(event, events.TaskStep | events.Counted)
        return not frequent or time.monotonic() - self._last_line > _LINE_INTERVAL
