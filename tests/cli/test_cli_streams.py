"""Broken output streams end no run, and with --json stdout and stderr hold nothing but JSON."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.nets import NETS

pty = pytest.importorskip("pty", reason="Windows has no pseudo-terminals")

NETWORKS = ("--teacher", f"{NETS}:resnet(depth=8)", "--student", f"{NETS}:resnet(depth=8)")
QUICK = ("--steps-scale", "0.005", "-b", "4", "--set", "freeze=none")
RUN = ("distill", *NETWORKS, "--teacher-checkpoint", "none", "--images", "photos", *QUICK)
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}

NOISY = """
import ctypes, os, sys, warnings

def noisy(depth=8):
    print("printed in Python")
    print("on stderr in Python", file=sys.stderr)
    os.write(1, b"on descriptor 1\\n")
    os.write(2, b"10%|#\\r100%|##########\\n")
    os.write(2, b"not UTF-8 \\xff\\x1b[31m\\n")
    warnings.warn("a library's warning")
    ctypes.CDLL(None).puts(b"printed in C")
    return module(depth)

def crashing(depth=8):
    import faulthandler
    faulthandler.enable(file=2)
    os.write(2, b"terminate called after throwing\\n")
    os.abort()

def killed(depth=8):
    os.write(2, b"the last line")
    os.kill(os.getpid(), 9)

def module(depth):
    sys.path.insert(0, HERE)
    from tests.nets import resnet
    return resnet(depth)
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a few images, and networks whose making is noisy."""
    folder = tmp_path_factory.mktemp("place")
    generator = np.random.default_rng(0)
    (folder / "photos").mkdir()
    for index in range(6):
        pixels = generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "photos" / f"{index}.png")
    (folder / "noisy.py").write_text(f"HERE = {str(NETS.parent.parent)!r}\n{NOISY}")
    return folder


def started(place: Path, words: Sequence[str], stderr: int) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "graftcli", *words]
    return subprocess.Popen(
        command, cwd=place, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=stderr, preexec_fn=_default_signals
    )


def _default_signals() -> None:
    """Whoever runs the tests in the background may have these ignored, and a child would inherit that."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def done(ran: "subprocess.Popen[bytes]") -> bytes:
    """The result of a command that ends well."""
    assert ran.stdout is not None
    with ran:
        result = ran.stdout.read()
    assert ran.returncode == 0
    return result


def read_until(number: int, word: bytes) -> None:
    seen = b""
    while word not in seen:
        seen += os.read(number, 1000)


# -- a stderr that goes away --------------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [(), ("--json",)])
def test_a_terminal_that_goes_away_does_not_end_a_run(place: Path, more: tuple[str, ...]) -> None:
    master, slave = pty.openpty()
    ran = started(place, (*RUN, "--out", f"pty{len(more)}", *more), slave)
    os.close(slave)
    read_until(master, b"graft")
    os.close(master)  # EIO for whoever writes from here on
    assert b"written:" in done(ran) or "--json" in more
    assert json.loads((place / f"pty{len(more)}" / "run.json").read_text())["status"] == "finished"


@pytest.mark.parametrize(
    ("kind", "more"),
    [("closed pipe", ()), ("closed pipe", ("--json",)), ("full disk", ("--json",)), ("no stderr", ())],
)
def test_a_stderr_that_cannot_be_written_ends_no_command(place: Path, kind: str, more: tuple[str, ...]) -> None:
    words = ("images", "photos", *more)
    if kind == "closed pipe":
        ran = started(place, words, subprocess.PIPE)
        assert ran.stderr is not None
        ran.stderr.readline()
        ran.stderr.close()
    elif kind == "full disk":
        if not Path("/dev/full").exists():
            pytest.skip("only Linux has /dev/full")
        with Path("/dev/full").open("wb") as full:
            ran = started(place, words, full.fileno())
    else:
        command = ["sh", "-c", 'exec "$@" 2>&-', "sh", sys.executable, "-m", "graftcli", *words]
        ran = subprocess.Popen(command, cwd=place, env=ENVIRONMENT, stdout=subprocess.PIPE)
    result = done(ran)
    assert json.loads(result) if more else b"6 images" in result


def test_an_error_without_a_stderr_keeps_its_exit_code(place: Path) -> None:
    for more in ([], ["--json"]):
        words = ("recipes", "show", "nowhere", *more)
        command = ["sh", "-c", 'exec "$@" 2>&-', "sh", sys.executable, "-m", "graftcli", *words]
        assert subprocess.run(command, cwd=place, env=ENVIRONMENT, stdout=subprocess.PIPE).returncode == 2


def test_a_hangup_still_ends_a_command(place: Path) -> None:
    ran = started(place, (*RUN, "--out", "hung", "--json"), subprocess.PIPE)
    assert ran.stderr is not None
    with ran:
        ran.stderr.readline()
        ran.send_signal(signal.SIGHUP)
        ran.communicate(timeout=60)
    assert ran.returncode == -signal.SIGHUP


# -- a stdout that goes away --------------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [(), ("--json",)])
def test_a_stdout_without_a_reader_is_met_in_silence(place: Path, more: tuple[str, ...]) -> None:
    master, slave = pty.openpty()
    os.close(master)
    for output in (slave, None):
        reading, writing = os.pipe()
        os.close(reading)
        ran = subprocess.run(
            [sys.executable, "-m", "graftcli", "recipes", "ls", *more],
            stdout=writing if output is None else output,
            stderr=subprocess.PIPE,
        )
        os.close(writing)
        assert (ran.returncode, ran.stderr) == (141, b"")
    os.close(slave)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has /dev/full")
def test_a_result_that_finds_no_room_is_an_error_once() -> None:
    with Path("/dev/full").open("wb") as full:
        command = [sys.executable, "-m", "graftcli", "recipes", "ls", "--json"]
        ran = subprocess.run(command, stdout=full, stderr=subprocess.PIPE)
    assert (ran.returncode, json.loads(ran.stderr)["error"]["code"]) == (7, 7)


def test_a_closed_stdout_takes_no_file_of_the_command() -> None:
    command = ["sh", "-c", 'exec "$@" >&- <&-', "sh", sys.executable, "-m", "graftcli", "recipes", "ls"]
    ran = subprocess.run(command, stderr=subprocess.PIPE)
    assert (ran.returncode, ran.stderr) == (0, b"")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_of_another_encoding_shows_escapes(encoding: str) -> None:
    code = (
        f"from graftcli.cli import render, render_streams\nwith render_streams.standard(): render.line('{chr(0x2192)}')"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], env={**ENVIRONMENT, "PYTHONIOENCODING": encoding}, capture_output=True, check=True
    )
    assert ran.stdout == b"\\u2192\n"


# -- only JSON with --json ----------------------------------------------------------------------------------------


def planned(place: Path, factory: str) -> "subprocess.CompletedProcess[bytes]":
    words = ["plan", "--teacher", f"noisy.py:{factory}", "--teacher-checkpoint", "none", "--student", "noisy.py:noisy"]
    command = [sys.executable, "-m", "graftcli", *words, "--json"]
    return subprocess.run(command, cwd=place, env=ENVIRONMENT, capture_output=True)


def printed(stderr: bytes) -> Iterator[str]:
    """The lines of libraries; every line of stderr is a document."""
    for line in stderr.decode("utf-8").splitlines():
        event = json.loads(line)
        if event["event"] == "printed":
            yield event["text"]


def test_what_libraries_print_is_json_on_stderr_and_nothing_on_stdout(place: Path) -> None:
    ran = planned(place, "noisy")
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["teacher"]["source"]
    lines = list(printed(ran.stderr))
    for text in ("printed in Python", "on stderr in Python", "on descriptor 1", "10%|#", "100%|##########"):
        assert text in lines
    assert "not UTF-8 \\xff\x1b[31m" in lines
    assert any("a library's warning" in line for line in lines)


@pytest.mark.parametrize(
    ("factory", "signs", "expected"),
    [
        ("crashing", signal.SIGABRT, ["terminate called after throwing", "Fatal Python error: Aborted", "in crashing"]),
        ("killed", signal.SIGKILL, ["the last line"]),
    ],
)
def test_a_crash_loses_nothing_that_was_printed_before_it(
    place: Path, factory: str, signs: signal.Signals, expected: list[str]
) -> None:
    ran = planned(place, factory)
    assert ran.returncode == -signs
    text = "\n".join(printed(ran.stderr))
    assert all(part in text for part in expected), text


def test_without_json_libraries_print_as_ever(place: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "graftcli", "inspect", "noisy.py:noisy"],
        cwd=place,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        errors="replace",
    )
    assert "on stderr in Python\n" in ran.stderr and "{" not in ran.stderr


def test_an_interrupted_command_leaves_no_process_and_one_document(place: Path) -> None:
    ran = started(place, (*RUN, "--out", "interrupted", "--steps-scale", "0.05", "--json"), subprocess.PIPE)
    assert ran.stderr is not None
    with ran:
        while b"taskstarted" not in (read := ran.stderr.readline()):
            assert read, "it ended before anything was trained"
        ran.send_signal(signal.SIGINT)
        _, rest = ran.communicate(timeout=60)
    assert ran.returncode == 130
    lines = rest.decode()
    assert json.loads(lines[lines.index('{\n  "error"') :])["error"]["code"] == 130
    assert len(children(ran.pid)) == 0


def children(parent: int) -> list[str]:
    time.sleep(0.1)
    listed = subprocess.run(["ps", "-o", "ppid=,pid="], capture_output=True, text=True, check=False).stdout
    return [line for line in listed.splitlines() if line.split()[0] == str(parent)]


@pytest.mark.parametrize("words", [["--help"], ["plan", "--json", "--help"]])
def test_help_stays_text(words: list[str]) -> None:
    ran = subprocess.run([sys.executable, "-m", "graftcli", *words], capture_output=True, text=True)
    assert "graftcli" in ran.stdout and ran.stderr == ""


@pytest.mark.parametrize("words", [["--version", "--json"], ["--nothing", "plan", "--json"], ["paln", "--json"]])
def test_what_is_wrong_before_a_command_is_json_too(words: list[str]) -> None:
    ran = subprocess.run([sys.executable, "-m", "graftcli", *words], capture_output=True, text=True)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert json.loads(ran.stderr)["error"]["code"] == 2
