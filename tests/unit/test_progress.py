"""What a command says while it runs, and that it can be stopped."""

import os
import signal
from collections.abc import Iterator

import pytest

from graftcli.cli.progress import listening
from graftcli.events import Warned


@pytest.fixture(autouse=True)
def usual() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts behind others has none
    yield
    signal.signal(signal.SIGINT, before)


class Deaf:
    """Interrupted while it is destroyed."""

    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(1000):
            pass


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_ctrl_c_is_heard_even_where_python_drops_it() -> None:
    with listening(as_json=False, quiet=True) as listen:
        listen(Warned("before"))
        deaf = [Deaf()]
        deaf.clear()
        with pytest.raises(KeyboardInterrupt):
            listen(Warned("after"))


def test_ctrl_c_is_heard_at_once_elsewhere_and_the_handler_is_put_back() -> None:
    with pytest.raises(KeyboardInterrupt), listening(as_json=False, quiet=True):
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(1000):
            pass
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_command_in_the_background_goes_on_not_listening() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with listening(as_json=False, quiet=True) as listen:
        os.kill(os.getpid(), signal.SIGINT)
        listen(Warned("still here"))
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
