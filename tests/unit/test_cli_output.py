"""What the commands print while they run, without markup or escapes from outside, and how Ctrl-C stops them."""

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from graftcli.cli import render, render_run
from graftcli.cli.exits import Failure
from graftcli.cli.progress import listening
from graftcli.events import Event, Warned


@pytest.fixture(autouse=True)
def plain_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("COLUMNS", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("amount", "unit", "shown"),
    [
        (0, "", "0"),
        (999, "B", "999 B"),
        (221_952, "", "222.0 k"),
        (999_960, "", "1.0 M"),
        (21_797_672, "", "21.8 M"),
        (3.6e9, "MACs", "3.6 GMACs"),
        (12_345_678, "B", "12.3 MB"),
        (-1_500, "", "-1.5 k"),
        (0.25, "s", "0.2 s"),
        (2e18, "", "2000.0 P"),
    ],
)
def test_amounts_are_shown_in_steps_of_a_thousand(amount: float, unit: str, shown: str) -> None:
    assert render.human(amount, unit) == shown


def test_a_table_keeps_brackets_and_whole_rows_where_no_terminal_limits_them(
    capsys: pytest.CaptureFixture[str],
) -> None:
    long = "layer3.[0]/" * 40
    render.table("Blocks", ("block", "params"), [(1, 12), (long, None), ("[bold]x[/bold]", 345)], right=("params",))
    out, err = capsys.readouterr()
    title, head, _, first, second, third = (line.rstrip() for line in out.splitlines())
    assert (title, head.split(), second, err) == ("Blocks", ["block", "params"], long, "")
    assert third.startswith("[bold]x[/bold]")
    assert first.endswith("12") and third.endswith("345") and len(first) == len(third)


def test_a_table_without_column_names_has_no_head(capsys: pytest.CaptureFixture[str]) -> None:
    render.table("", ("", ""), [("mps", "no")])
    assert capsys.readouterr().out.split() == ["mps", "no"]


def test_columns_limit_the_width_where_they_are_set(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    render.table("", ("name",), [("word " * 20,)])
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 30


def test_warnings_and_errors_stay_off_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    render.warning("[random] weights")
    render.error(Failure(3, "message", "fix", "trace\n"))
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "warning: [random] weights\nmessage\nfix\ntrace\n"


def test_control_characters_are_printed_as_escapes(capsys: pytest.CaptureFixture[str]) -> None:
    render.line("weights\x1b[2J.pth\r")
    render.table("", ("\x07name",), [("a\x9bb",)])
    out = capsys.readouterr().out
    assert r"weights\x1b[2J.pth\r" in out
    assert r"\x07name" in out and r"a\x9bb" in out
    assert not set("\x1b\x07\r\x9b") & set(out)


@pytest.mark.parametrize("unseen", ["\u202e", "\u2066", "\u200f", "\u2028", "\udcff", "\ufeff", "\x85"])
def test_what_reorders_or_hides_text_is_shown_as_an_escape(unseen: str, capsys: pytest.CaptureFixture[str]) -> None:
    render.note(f"a{unseen}b")
    render.error(Failure(2, f"c{unseen}d", f"e{unseen}f"))
    stderr = capsys.readouterr().err
    escape = unseen.encode("unicode_escape", "surrogatepass").decode()
    assert stderr == "".join(f"{a}{escape}{b}\n" for a, b in ("ab", "cd", "ef"))


def test_a_document_is_json_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    facts = {"name": "größe [1]", "shape": [3, 224, 224], "folds": None}
    render.document(facts)
    assert json.loads(capsys.readouterr().out) == facts
    render.document({"loss": math.nan, "each": [(math.inf, 1.5)]})
    assert json.loads(capsys.readouterr().out) == {"loss": None, "each": [[None, 1.5]]}


@pytest.mark.parametrize(
    ("setting", "coloured"), [({"FORCE_COLOR": "1"}, True), ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False), ({}, False)]
)
def test_colour_is_for_terminals_and_for_those_who_want_it(setting: dict[str, str], coloured: bool) -> None:
    code = "from graftcli.cli import render, exits; render.error(exits.Failure(3, 'found'))"
    ran = subprocess.run([sys.executable, "-c", code], env=setting, capture_output=True, text=True, check=True)
    assert ("\x1b[31m" in ran.stderr) == coloured
    assert "found" in ran.stderr


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


@dataclass(frozen=True)
class DiskChecked(Event):
    """An event for which no text is written."""

    free_bytes: int
    folder: str


def test_an_event_without_a_text_of_its_own_is_shown_by_its_name_and_fields(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with listening(as_json=False, quiet=False) as listen:
        listen(DiskChecked(2048, "runs/small"))
    assert capsys.readouterr().err == "disk checked: free bytes 2048, folder runs/small\n"
    with render_run.Bars() as bars:
        bars(DiskChecked(2048, "runs/small"))
    assert "disk checked: free bytes 2048" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_ctrl_c_works_even_where_python_drops_it() -> None:
    with listening(as_json=False, quiet=True) as listen:
        listen(Warned("before"))
        deaf = [Deaf()]
        deaf.clear()
        with pytest.raises(KeyboardInterrupt):
            listen(Warned("after"))


def test_ctrl_c_works_at_once_elsewhere_and_the_handler_is_restored() -> None:
    with pytest.raises(KeyboardInterrupt), listening(as_json=False, quiet=True):
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(1000):
            pass
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_command_in_the_background_keeps_ignoring_ctrl_c() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with listening(as_json=False, quiet=True) as listen:
        os.kill(os.getpid(), signal.SIGINT)
        listen(Warned("still here"))
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
